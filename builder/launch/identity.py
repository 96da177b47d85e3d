"""Names for guests."""

from __future__ import annotations

import uuid


def new_identity() -> str:
    """Return an instance id that was never used: cloud-init runs anew for each."""
    return f"i-{uuid.uuid4().hex[:12]}"

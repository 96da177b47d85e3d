"""Wait in a test until something is so, and no longer than that."""

from __future__ import annotations

import time
from collections.abc import Callable

_PAUSE_SECONDS = 0.02


def wait_until(seen: Callable[[], object], seconds: float = 10, what: str = "") -> None:
    """Ask until the answer is true; AssertionError that says `what` when it never was for so many seconds."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, what or f"not so within {seconds:.0f} s"
        time.sleep(_PAUSE_SECONDS)

"""Facts about this boot: has this machine been ready before, and will there still be a `boot.json`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from relay_agent.maps import write_whole
from relay_agent.places import Places


def has_been_ready(places: Places) -> bool:
    """Say whether this very machine was ready once.

    A machine started from a copy of a relay's disk has the marker of another one: it counts as fresh.
    """
    try:
        marker: Any = json.loads(places.been_ready.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(marker, dict) and marker.get("machine") == _machine(places)


def mark_ready(places: Places) -> None:
    """Remember, over reboots, that this machine was ready."""
    if not has_been_ready(places):
        places.been_ready.parent.mkdir(parents=True, exist_ok=True)
        write_whole(places.been_ready, json.dumps({"machine": _machine(places)}) + "\n", mode=0o644)


def _machine(places: Places) -> str:
    """Return a digest of the machine id, which machine-id(5) asks not to show as it is."""
    try:
        identity = places.machine_id.read_bytes().strip()
    except OSError:
        identity = b""
    return hashlib.sha256(b"relay " + identity).hexdigest()[:16]


def awaits_boot_json(places: Places) -> bool:
    """Say whether cloud-init may still write `boot.json` in this boot."""
    if places.boot_json.exists() or places.cloud_init_result.exists():
        return False
    try:
        status: Any = json.loads(places.cloud_init_status.read_text(encoding="utf-8"))
        return not status["v1"]["init"]["finished"]
    except (OSError, ValueError, KeyError, TypeError):
        return True

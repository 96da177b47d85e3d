"""What the relay knows of itself, in one place: written by the loop, read by health, metrics and relayctl."""

from __future__ import annotations

import threading
import time
from typing import Any, Sequence

from relay_agent import logs, loops
from relay_agent.mailqueue import QueueSummary
from relay_agent.maps import write_whole
from relay_agent.places import Places
from relay_agent.traffic import Traffic

SCHEMA = 1
STATES = ("starting", "failed", "ready", "degraded", "full", "draining")
ACCEPTING = ("ready", "degraded")


class Board:
    """The current state and its reason.

    starting   never been ready, port 25 closed; the reason says what is waited for
    failed     the same after `boot_deadline_seconds`, or Postfix is down; still trying
    ready      port 25 open, every upstream's credential proven
    degraded   port 25 open, mail is accepted and queued, but some upstream has no proven credential, or
               room for the queue gets short
    full       port 25 open, but Postfix has no room to take mail; what is queued is delivered
    draining   port 25 closed on request, the queue is being delivered
    """

    def __init__(self, places: Places, traffic: Traffic, *, version: str) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self.traffic = traffic
        self.queue = QueueSummary()
        self.queue_read_at = 0.0
        self.log_lines, self.log_restarts = 0, 0
        self._beat = time.monotonic()
        now = time.time()
        self._values: dict[str, Any] = {
            "schema": SCHEMA,
            "agent": version,
            "state": "starting",
            "reason": None,
            "since": now,
            "started_at": now,
            "ready_after_seconds": None,
            "preset": None,
            "region": None,
            "upstreams": [],
        }

    def beat(self) -> None:
        """Say that the loop is alive."""
        self._beat = time.monotonic()

    def seconds_since_beat(self) -> float:
        """How long ago the loop last came by."""
        return time.monotonic() - self._beat

    def set(self, **values: Any) -> None:
        """Set facts such as preset, region and upstreams."""
        with self._lock:
            self._values.update(values)

    def set_state(self, state: str, reason: dict[str, Any] | None) -> bool:
        """Set the state and its reason; True when the state or the reason's code is another than before."""
        with self._lock:
            before = (self._values["state"], (self._values["reason"] or {}).get("code"))
            changed = before != (state, (reason or {}).get("code"))
            self._values.update(state=state, reason=reason)
            if before[0] != state:
                self._values["since"] = time.time()
            if state == "ready" and self._values["ready_after_seconds"] is None:
                self._values["ready_after_seconds"] = round(time.monotonic() - self._started, 3)
            return changed

    @property
    def state(self) -> str:
        """The current state."""
        return str(self.values()["state"])

    def values(self) -> dict[str, Any]:
        """Return the facts as they are now."""
        with self._lock:
            return dict(self._values)

    def set_queue(self, queue: QueueSummary) -> None:
        """Put up what the queue holds."""
        with self._lock:
            self.queue, self.queue_read_at = queue, time.time()

    def readiness(self) -> dict[str, Any]:
        """Return the body of /readyz: state, reason, upstreams; no address of anybody's mail."""
        values = self.values()
        keys = ("name", "host", "state", "version_id", "refused_version", "reason")
        return {
            "state": values["state"],
            "accepting": values["state"] in ACCEPTING,
            "message": _sentence(values["state"], values["reason"]),
            "reason": values["reason"],
            "since": values["since"],
            "upstreams": [{key: item.get(key) for key in keys} for item in values["upstreams"]],
        }

    def write(self) -> None:
        """Write `/run/relay/status.json` by rename."""
        values = self.values()
        now = time.time()
        values["updated_at"] = now
        values["message"] = _sentence(values["state"], values["reason"])
        values["accepting"] = values["state"] in ACCEPTING
        values["credential"] = _credential(values["upstreams"])
        values["queue"] = {
            "messages": self.queue.messages,
            "total": self.queue.total,
            "size": self.queue.size,
            "oldest_seconds": self.queue.ages(now),
            "reasons": dict(self.queue.reasons),
            "read_at": self.queue_read_at,
        }
        values["traffic"] = self.traffic.summary()
        values["loops"] = loops.last_failures()
        write_whole(self._places.status_json, logs.clean_json(values) + "\n", mode=0o644)


def _credential(upstreams: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Repeat the first upstream's credential at the top, for readers that know of one only."""
    if not upstreams:
        return None
    keys = ("state", "version_id", "version_created", "proven_at", "refused_version")
    return {key: upstreams[0].get(key) for key in keys}


def _sentence(state: str, reason: dict[str, Any] | None) -> str:
    says = {
        "starting": "starting: port 25 is closed",
        "failed": "not ready: port 25 is closed",
        "ready": "ready",
        "degraded": "degraded: accepting and queueing",
        "full": "not ready: there is no room to take mail",
        "draining": "draining: port 25 is closed, the queue is being delivered",
    }[state]
    return f"{says} ({reason['message']})" if reason else says

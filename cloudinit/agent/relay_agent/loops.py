"""Keep what runs beside the agent's loop running, and count what went wrong in it.

Nobody misses a thread that ended: port 25 stays open while rate, figures or health stand still.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any, Callable

from relay_agent.backoff import Backoff
from relay_agent.logs import Log
from relay_agent.trouble import Trouble, unexpected

NAMES = ("main", "credential", "queue", "mail-log", "health", "rate", "pace")

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0

_lock = threading.Lock()
_failures: Counter[str] = Counter()
_last: dict[str, dict[str, Any]] = {}


def failed(name: str, error: Exception) -> Trouble:
    """Count an error that a loop did not expect, and return what to say of it."""
    trouble = error if isinstance(error, Trouble) else unexpected(name, error)
    with _lock:
        _failures[name] += 1
        _last[name] = {"at": time.time(), "failures": _failures[name], "reason": trouble.as_json()}
    return trouble


def failures() -> dict[str, int]:
    """Return how often each loop failed."""
    with _lock:
        return {name: _failures[name] for name in NAMES}


def last_failures() -> dict[str, dict[str, Any]]:
    """Return the last failure of each loop that ever failed: `at`, `failures` and `reason`."""
    with _lock:
        return {name: dict(found) for name, found in _last.items()}


def forget() -> None:
    """Start counting anew."""
    with _lock:
        _failures.clear()
        _last.clear()


def keep_going(
    name: str, work: Callable[[], object], *, stopping: threading.Event, log: Log | None = None
) -> None:
    """Call `work` again after each error until it returns by itself or `stopping` is set."""
    backoff = Backoff(base_seconds=_FIRST_PAUSE_SECONDS, cap_seconds=_LONGEST_PAUSE_SECONDS)
    said = ""
    while not stopping.is_set():
        try:
            work()
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread must go on
            trouble = failed(name, error)
        if log is not None and trouble.message != said:
            log.error("a loop of the agent failed; it goes on", loop=name, **trouble.as_json())
        said = trouble.message
        stopping.wait(backoff.next_seconds())

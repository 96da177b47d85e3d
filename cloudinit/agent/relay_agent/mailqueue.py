"""What is in Postfix's queue: how much, how old, and why it waits."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator

from relay_agent import programs
from relay_agent.maillog import reason_of
from relay_agent.postfix import Postfix
from relay_agent.trouble import Trouble

QUEUES = ("incoming", "active", "deferred", "hold")
_LONGEST_SECONDS = 60


@dataclass(frozen=True)
class Waiting:
    """One message in the queue; `arrived` is in seconds since the epoch, `size` in bytes."""

    queue_id: str
    queue: str
    arrived: float
    size: int
    sender: str
    recipients: tuple[str, ...]
    why: tuple[str, ...]


@dataclass
class QueueSummary:
    """Counts and ages by queue, and how many recipients wait for each reason; `read_seconds` is its cost."""

    messages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(QUEUES, 0))
    oldest: dict[str, float] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    size: int = 0
    read_seconds: float = 0.0

    @property
    def total(self) -> int:
        """Messages in all queues."""
        return sum(self.messages.values())

    def ages(self, now: float) -> dict[str, float]:
        """Return the age of the oldest message of each queue in seconds; 0 for an empty one."""
        return {queue: max(0.0, now - self.oldest.get(queue, now)) for queue in QUEUES}


def parse(lines: Iterable[str]) -> Iterator[Waiting]:
    """Read `postqueue -j` (one JSON object a line, postqueue(1), since 3.1); a torn line is left out."""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("queue_id"):
            yield _waiting(entry)


def _waiting(entry: dict[str, Any]) -> Waiting:
    recipients = [item for item in entry.get("recipients", []) if isinstance(item, dict)]
    return Waiting(
        queue_id=str(entry["queue_id"]),
        queue=str(entry.get("queue_name", "")),
        arrived=float(entry.get("arrival_time", 0)),
        size=int(entry.get("message_size", 0)),
        sender=str(entry.get("sender", "")),
        recipients=tuple(str(item.get("address", "")) for item in recipients),
        why=tuple(str(item["delay_reason"]) for item in recipients if item.get("delay_reason")),
    )


def read(postfix: Postfix) -> Iterator[Waiting]:
    """Read the queue as it is now, one message at a time: it can be longer than memory is large.

    Errors: Trouble `queue-unreadable`; `program-missing`.
    """
    process = programs.start(postfix.command("postqueue", "-j"))
    watch = threading.Timer(_LONGEST_SECONDS, process.kill)
    watch.daemon = True
    watch.start()
    try:
        assert process.stdout is not None  # noqa: S101 - programs.start opens it
        yield from parse(raw.decode("utf-8", "replace") for raw in process.stdout)
        code = process.wait()
    finally:
        watch.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if code != 0:
        raise Trouble(
            "queue-unreadable", f"`postqueue -j` failed with exit code {code}", hint="Does Postfix run?"
        )


def summarize(waiting: Iterable[Waiting]) -> QueueSummary:
    """Count messages by queue, and find the oldest of each."""
    started = time.monotonic()
    summary = QueueSummary()
    for message in waiting:
        queue = message.queue if message.queue in summary.messages else "incoming"
        summary.messages[queue] += 1
        summary.size += message.size
        summary.oldest[queue] = min(message.arrived, summary.oldest.get(queue, message.arrived))
        summary.reasons.update(reason_of(why) for why in message.why)
    summary.read_seconds = time.monotonic() - started
    return summary

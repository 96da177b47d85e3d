"""What went through the relay, counted from the mail log."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from typing import Any, Callable

from relay_agent.maillog import (
    Arrived,
    AuthFailure,
    Delivery,
    Discarded,
    Event,
    Expired,
    Notice,
    Problem,
    Queued,
    Rejected,
    TlsSession,
    without_addresses,
)

# Upper bounds in seconds of the delay between acceptance and delivery.
DELAYS = (0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 3600.0)
_RATE_SECONDS = 300
# Messages that have come in and that the queue manager has not begun with (deferred ones it has); beyond this
# the oldest are forgotten and not counted.
_MOST_ARRIVED = 100_000
# Results of a delivery that is over without the provider and without a fault.
_ON_PURPOSE = ("discarded", "kept")


class _Rate:
    """Counts events in the last five minutes, second by second."""

    def __init__(self) -> None:
        self._seconds: deque[list[float]] = deque()

    def add(self, now: float) -> None:
        second = float(int(now))
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1] += 1
        else:
            self._seconds.append([second, 1.0])
        while self._seconds and self._seconds[0][0] < now - _RATE_SECONDS:
            self._seconds.popleft()

    def per_second(self, now: float, window_seconds: float) -> float:
        counted = sum(count for second, count in self._seconds if now - window_seconds < second <= now)
        return counted / window_seconds


class Traffic:
    """Counters for /metrics and `relayctl status`; fed by one thread, read by others."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._arrived: OrderedDict[str, None] = OrderedDict()
        self._in, self._out = _Rate(), _Rate()
        self.accepted: Counter[str] = Counter()
        self.deliveries: Counter[tuple[str, str, str]] = Counter()
        self.reused_deliveries = 0
        self.rejected: Counter[str] = Counter()
        self.tls: Counter[tuple[str, str]] = Counter()
        self.auth_failures = 0
        self.expired = 0
        self.notices = 0
        self.problems: Counter[tuple[str, str]] = Counter()
        self.delay_buckets = [0] * (len(DELAYS) + 1)
        self.delay_sum = 0.0
        self.last_delivered: dict[str, Any] | None = None
        self.last_errors: dict[str, dict[str, Any]] = {}

    def add(self, event: Event, at: float | None = None) -> bool:
        """Count one event; True when it says that the provider refused our login."""
        now = self._clock() if at is None else at
        with self._lock:
            if isinstance(event, Delivery):
                return self._delivery(event, now)
            if isinstance(event, Arrived):
                self._arrive(event.queue_id)
            elif isinstance(event, Queued):
                self._queued(event, now)
            elif isinstance(event, AuthFailure):
                self.auth_failures += 1
                return True
            else:
                self._other(event)
        return False

    def _other(self, event: Event) -> None:
        if isinstance(event, TlsSession):
            self.tls[(event.trust, "reused" if event.reused else "new")] += 1
        elif isinstance(event, Rejected):
            self.rejected[str(event.code)] += 1
        elif isinstance(event, Discarded):
            self.deliveries[("discarded", "none", "discarded")] += 1
        elif isinstance(event, Expired):
            self.expired += 1
        elif isinstance(event, Notice):
            self.notices += 1
        elif isinstance(event, Problem):
            self.problems[(event.program, event.severity)] += 1

    def _arrive(self, queue_id: str) -> None:
        self._arrived[queue_id] = None
        if len(self._arrived) > _MOST_ARRIVED:
            self._arrived.popitem(last=False)

    def _queued(self, event: Queued, now: float) -> None:
        """Count a message the first time: it is said at each try, but only once after its arrival."""
        if event.queue_id not in self._arrived:
            return
        del self._arrived[event.queue_id]
        # Without a sender: a notice, mostly one that was made here.
        self.accepted["address" if event.sender else "null"] += 1
        if event.sender:
            self._in.add(now)

    def _delivery(self, event: Delivery, now: float) -> bool:
        result = {"sent": "delivered"}.get(event.status, event.status)
        self.deliveries[(result, event.reply_class, event.reason)] += 1
        if result == "delivered":
            self._out.add(now)
            self.reused_deliveries += event.reused
            self._observe_delay(event.delay)
            self.last_delivered = {
                "at": now,
                "relay": event.relay,
                "reply": without_addresses(event.text)[:200],
            }
            return False
        if result in _ON_PURPOSE:
            return False
        self.last_errors[event.reason] = {
            "at": now,
            "result": result,
            "code": event.code,
            "dsn": event.dsn,
            "relay": event.relay,
            "text": without_addresses(event.text)[:300],
        }
        # `suspended` lines repeat an earlier failure for each message that waits; they are no new login.
        if event.reason == "auth" and "suspended" not in event.text:
            self.auth_failures += 1
            return True
        return False

    def _observe_delay(self, seconds: float) -> None:
        self.delay_sum += seconds
        for number, bound in enumerate(DELAYS):
            if seconds <= bound:
                self.delay_buckets[number] += 1
                return
        self.delay_buckets[-1] += 1

    def summary(self) -> dict[str, Any]:
        """Return what `relayctl status` shows: rates per second over a minute and five, last events."""
        with self._lock:
            now = self._clock()
            results: Counter[str] = Counter()
            for (result, _, _), count in self.deliveries.items():
                results[result] += count
            return {
                "accepted": self.accepted["address"],
                "deliveries": dict(results),
                "rate_in": {str(window): self._in.per_second(now, window) for window in (60, 300)},
                "rate_out": {str(window): self._out.per_second(now, window) for window in (60, 300)},
                "auth_failures": self.auth_failures,
                "rejected_clients": sum(self.rejected.values()),
                "last_delivered": self.last_delivered,
                "last_errors": dict(self.last_errors),
            }

    def frozen(self) -> dict[str, Any]:
        """Return copies of all counters, taken at one moment, for /metrics."""
        with self._lock:
            return {
                "accepted": dict(self.accepted),
                "deliveries": dict(self.deliveries),
                "reused_deliveries": self.reused_deliveries,
                "rejected": dict(self.rejected),
                "tls": dict(self.tls),
                "auth_failures": self.auth_failures,
                "expired": self.expired,
                "notices": self.notices,
                "problems": dict(self.problems),
                "delay_buckets": list(self.delay_buckets),
                "delay_sum": self.delay_sum,
            }

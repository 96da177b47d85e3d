"""Let messages go one by one at a rate, which Postfix itself cannot: its `*_rate_delay` is in whole seconds.

Postfix's SMTP client looks the destination of every delivery up in `smtp_connection_cache_destinations`,
once, before it takes a session (smtp_connect.c, `smtp_cache_policy`; the same in 3.4 to 3.10). That table is
served here, as a socketmap (socketmap_table(5)). The answer is always that the session may be kept; it comes
when the delivery may begin. A message that waits holds no session, and a new rate needs no reload. When
nobody answers, Postfix warns in the mail log and sends without waiting: an agent that is gone stops no mail.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from typing import Any, Callable, Optional

from relay_agent import loops
from relay_agent.maillog import Delivery, Event

ADDRESS = ("127.0.0.1", 8026)
# Postfix gives a socketmap up after 100 s (dict_sockmap.c); no message may wait longer for its turn.
LONGEST_WAIT_SECONDS = 60.0
_MOST_DEBT_SECONDS = 20.0
# Being late by so much is made up for; more is not, or a stall would end in a burst.
_SLACK_SECONDS = 0.05
_QUARTER = 4
_SLOWER, _SLOWEST = 0.8, 0.1
_SLOWER_EVERY_SECONDS = 2.0
_RECOVERY_PER_SECOND = 0.005
# New rates and lost clients are noticed so often.
_LOOK_SECONDS = 0.25
_YES = b"6:OK yes,"
_MOST_KEY_BYTES = 1000
# Recipients of one delivery are logged together.
_SAME_DELIVERY_SECONDS = 1.0
_MOST_REMEMBERED = 1000


class Bucket:
    """When the next message may go: never more in a second than the rate, the first quarter of it at once.

    The rest is evenly spaced, so that no lumps remain for the provider's own count.

    Without a rate nothing waits. After a reply that we are too fast it goes slower for a while: others may
    send with the same account. Any thread may call it.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._rate: Optional[float] = None
        self._taken: deque[float] = deque()
        self._even = 0.0
        self._debt_until = 0.0
        self._factor, self._factor_at = 1.0, 0.0
        self.granted = 0

    def set_rate(self, per_second: Optional[float]) -> None:
        """Set messages per second; None lets everything go at once."""
        with self._lock:
            self._rate = per_second

    def rate(self) -> Optional[float]:
        """Return the rate at this moment, in messages per second."""
        with self._lock:
            return self._rate_at(self._monotonic())

    def wait_seconds(self) -> float:
        """Return how long the next message has to wait from now."""
        with self._lock:
            now = self._monotonic()
            rate = self._rate_at(now)
            if rate is None:
                return 0.0
            most, window = self._window(rate, now)
            waits = [0.0, self._debt_until - now]
            if len(self._taken) >= most:
                waits.append(self._taken[-most] + window - now)
            if _QUARTER * len(self._taken) >= most:
                waits.append(self._even - now)
            return max(waits)

    def take(self) -> None:
        """Let one message go."""
        with self._lock:
            self.granted += 1
            now = self._monotonic()
            rate = self._rate_at(now)
            if rate is None:
                return
            most, _window = self._window(rate, now)
            is_even = _QUARTER * len(self._taken) >= most
            self._even = (max(self._even, now - _SLACK_SECONDS) if is_even else now) + 1 / rate
            self._taken.append(now)

    def charge(self, count: int) -> None:
        """Count more than was taken: a provider counts recipients, and those are known only afterwards."""
        with self._lock:
            now = self._monotonic()
            rate = self._rate_at(now)
            if rate is not None:
                until = max(self._debt_until, now) + count / rate
                self._debt_until = min(until, now + _MOST_DEBT_SECONDS)

    def _window(self, rate: float, now: float) -> tuple[int, float]:
        """Return how many may go in how many seconds (one, or a little more for a whole number)."""
        most = max(1, math.ceil(rate))
        window = most / rate
        while self._taken and self._taken[0] <= now - window:
            self._taken.popleft()
        return most, window

    def slow_down(self) -> None:
        """Take a reply that we send too fast."""
        with self._lock:
            now = self._monotonic()
            factor = self._recovered(now)
            if self._factor_at and now - self._factor_at < _SLOWER_EVERY_SECONDS:
                return
            self._factor, self._factor_at = max(_SLOWEST, factor * _SLOWER), now

    def _rate_at(self, now: float) -> Optional[float]:
        return None if self._rate is None else self._rate * self._recovered(now)

    def _recovered(self, now: float) -> float:
        return min(1.0, self._factor + (now - self._factor_at) * _RECOVERY_PER_SECOND)


class LogReader:
    """Tells the bucket what the mail log shows: further recipients, and replies that we are too fast."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._seen: OrderedDict[str, float] = OrderedDict()

    def observe(self, event: Event, at: float) -> None:
        """Take one event of the mail log; `at` is its time in seconds."""
        if not isinstance(event, Delivery) or not event.code:
            return
        if event.reason == "throttled":
            self._bucket.slow_down()
        before = self._seen.pop(event.queue_id, None)
        if before is not None and at - before < _SAME_DELIVERY_SECONDS:
            self._bucket.charge(1)
        self._seen[event.queue_id] = at
        if len(self._seen) > _MOST_REMEMBERED:
            self._seen.popitem(last=False)


class Gate:
    """The socketmap server, in a thread of its own; first come, first served."""

    def __init__(self, bucket: Bucket, *, host: str = ADDRESS[0], port: int = ADDRESS[1]) -> None:
        self.bucket = bucket
        self._address = (host, port)
        self._thread = threading.Thread(target=self._run, name="pace", daemon=True)
        self._up = threading.Event()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._stop: Optional[asyncio.Event] = None
        self._turn: Optional[asyncio.Lock] = None
        self._error: Optional[OSError] = None
        self._stopping = threading.Event()
        self.port = port

    @property
    def table(self) -> str:
        """What main.cf has to say for `smtp_connection_cache_destinations`."""
        return f"socketmap:inet:{self._address[0]}:{self.port}:rate"

    def start(self, *, timeout_seconds: float = 10) -> None:
        """Listen. Errors: OSError when the port is taken."""
        self._thread.start()
        self._up.wait(timeout_seconds)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Close the port; whoever waits goes on without."""
        self._stopping.set()
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def _run(self) -> None:
        loops.keep_going("pace", lambda: asyncio.run(self._serve()), stopping=self._stopping)

    async def _serve(self) -> None:
        self._loop, self._stop, self._turn = asyncio.get_running_loop(), asyncio.Event(), asyncio.Lock()
        try:
            server = await asyncio.start_server(self._client, *self._address)
        except OSError as error:
            if self._up.is_set():
                raise
            self._error = error
            self._up.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._stop.wait()
        server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _read_netstring(reader) and await self._next_turn(reader):
                writer.write(_YES)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _next_turn(self, reader: asyncio.StreamReader) -> bool:
        """Wait for the turn; False when the client has gone meanwhile, and then nothing is taken."""
        assert self._turn is not None  # noqa: S101 - set before the first client
        async with self._turn:
            while not reader.at_eof():
                wait = self.bucket.wait_seconds()
                if wait <= 0:
                    self.bucket.take()
                    return True
                await asyncio.sleep(min(wait, _LOOK_SECONDS))
        return False


async def _read_netstring(reader: asyncio.StreamReader) -> bytes:
    """Read one request, `14:rate [host]:587,`; nothing at the end or when it is no netstring."""
    length: Any = (await reader.readuntil(b":"))[:-1]
    if not length.isdigit() or int(length) > _MOST_KEY_BYTES:
        return b""
    return (await reader.readexactly(int(length) + 1))[:-1]

"""Let messages go one by one at a rate, which Postfix itself cannot: its `*_rate_delay` is in whole seconds.

Postfix's SMTP client looks the destination of every delivery up in `smtp_connection_cache_destinations`,
once, before it takes a session (smtp_connect.c, `smtp_cache_policy`; the same in 3.4 to 3.10). That table is
served here, as a socketmap (socketmap_table(5)). The answer is always that the session may be kept; it comes
when the delivery may begin. A message that waits holds no session, and a new rate needs no reload. When
nobody answers, Postfix warns in the mail log and sends without waiting: an agent that is gone stops no mail.

Only transports that lead to the account's own host ask here (builder/render/routing.py), so others never
wait. The question comes before the first host is tried: what a fallback takes has waited all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import OrderedDict, deque
from typing import Any, Callable, Optional

from relay_agent import loops
from relay_agent.logs import Log
from relay_agent.maillog import Delivery, Event
from relay_agent.trouble import Trouble, unexpected

ADDRESS = ("127.0.0.1", 8026)
# Postfix gives a socketmap up after 100 s without a byte (dict_sockmap.c, netstring.c) and then sends. An
# answer that takes longer therefore begins early and goes on with a byte at a time.
_ALIVE_SECONDS = 30.0
# At 30 s a byte that is more than the 5 hours after which Postfix ends a process that is stuck
# (`daemon_timeout`); its message is then deferred and asks again.
_MOST_BYTES = 1000
# What went beyond the rate is made up for, but no provider counts further back than a day. Nothing that the
# mail log says can stop the mail for longer.
_MOST_DEBT_SECONDS = 86400.0
# Below a millionth of a message nothing is owed: clocks are not finer.
_NOTHING = 1e-6
# Being late by so much is made up for; more is not, or a stall would end in a burst.
_SLACK_SECONDS = 0.05
_QUARTER = 4
_SLOWER, _SLOWEST = 0.8, 0.1
_SLOWER_EVERY_SECONDS = 2.0
_RECOVERY_PER_SECOND = 0.005
# New rates and lost clients are noticed so often.
_LOOK_SECONDS = 0.25
_LAST_SECONDS = 0.05
_YES = b"6:OK yes,"
_MOST_KEY_BYTES = 1000
# Recipients of one delivery are logged together.
_SAME_DELIVERY_SECONDS = 1.0
_MOST_REMEMBERED = 1000
# An agent that starts reads some of the past, which is made up for already.
_LONG_AGO_SECONDS = 60.0


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
        self._owed, self._owed_at = 0.0, 0.0
        self._factor, self._factor_at = 1.0, 0.0
        self.granted = 0

    def set_rate(self, per_second: Optional[float]) -> None:
        """Set messages per second; None lets everything go at once."""
        with self._lock:
            self._settle(self._monotonic())
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
            self._settle(now)
            waits = [0.0]
            # What single recipients owe at most under the two rules below; they never wait for this one.
            beyond = self._owed - max(0, math.ceil(most / _QUARTER) - 1)
            if beyond > _NOTHING:
                waits.append(beyond / rate)
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
            self._settle(now)
            self._owed += 1

    def charge(self, count: int) -> None:
        """Count more than was taken: a provider counts recipients, and those are known only afterwards.

        All of it is made up for before the next message goes, so that messages to many keep the rate as well.
        """
        with self._lock:
            now = self._monotonic()
            rate = self._rate_at(now)
            if rate is not None:
                self._settle(now)
                self._owed = min(self._owed + count, rate * _MOST_DEBT_SECONDS)

    def _settle(self, now: float) -> None:
        """Take off what the rate has allowed since the last time."""
        rate = self._rate_at(now)
        passed = now - self._owed_at
        self._owed = 0.0 if rate is None else max(0.0, self._owed - passed * rate)
        self._owed_at = now

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
    """Tells the bucket what the mail log shows: further recipients, and replies that we are too fast.

    Only of `host`, the account's: what another provider says or takes is no matter of this rate.
    """

    def __init__(self, bucket: Bucket, host: str, clock: Callable[[], float] = time.time) -> None:
        self._bucket, self._host, self._clock = bucket, host.lower(), clock
        self._seen: OrderedDict[str, float] = OrderedDict()

    def observe(self, event: Event, at: float) -> None:
        """Take one event of the mail log; `at` is its time in seconds."""
        if not isinstance(event, Delivery) or not event.code or event.relay.lower() != self._host:
            return
        if self._clock() - at > _LONG_AGO_SECONDS:
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

    def __init__(
        self, bucket: Bucket, *, host: str = ADDRESS[0], port: int = ADDRESS[1], log: Optional[Log] = None
    ) -> None:
        self.bucket = bucket
        self._address, self._log = (host, port), log
        self._thread = threading.Thread(target=self._run, name="pace", daemon=True)
        self._tried = threading.Event()
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._stop: Optional[asyncio.Event] = None
        self._turn: Optional[asyncio.Lock] = None
        self._stopping = threading.Event()
        self.port = port
        self.trouble: Optional[Trouble] = None

    @property
    def table(self) -> str:
        """What main.cf has to say for `smtp_connection_cache_destinations`."""
        return f"socketmap:inet:{self._address[0]}:{self.port}:rate"

    def start(self, *, timeout_seconds: float = 10) -> None:
        """Listen. While the port is taken `trouble` says so, and it is tried again."""
        self._thread.start()
        self._tried.wait(timeout_seconds)

    def stop(self) -> None:
        """Close the port; whoever waits goes on without."""
        self._stopping.set()
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            # It may have ended by itself meanwhile.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def _run(self) -> None:
        loops.keep_going("pace", self._listen, stopping=self._stopping, log=self._log)

    def _listen(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            self.trouble = _closed(*self._address, error)
            self._tried.set()
            raise self.trouble from None
        except Exception as error:
            self.trouble = unexpected("pace", error)
            raise

    async def _serve(self) -> None:
        self._loop, self._stop, self._turn = asyncio.get_running_loop(), asyncio.Event(), asyncio.Lock()
        server = await asyncio.start_server(self._client, *self._address)
        self.port = server.sockets[0].getsockname()[1]
        self.trouble = None
        self._tried.set()
        await self._stop.wait()
        # First nobody new: a client that was accepted a moment ago gets to where it is closed.
        self._loop.remove_reader(server.sockets[0].fileno())
        await asyncio.sleep(_LAST_SECONDS)
        server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _read_netstring(reader) and await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer when the turn has come; False when the client has gone, or has waited for too long."""
        turn = asyncio.ensure_future(self._next_turn(reader))
        sent = 0
        try:
            while not (await asyncio.wait({turn}, timeout=_ALIVE_SECONDS))[0]:
                if sent == _MOST_BYTES:
                    return False
                writer.write(b"%d:OK y" % (len("OK ") + _MOST_BYTES) if sent == 0 else b"y")
                await writer.drain()
                sent += 1
        finally:
            turn.cancel()
        if not turn.result():
            return False
        writer.write(_YES if sent == 0 else b"y" * (_MOST_BYTES - sent) + b",")
        await writer.drain()
        return True

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


def _closed(host: str, port: int, error: OSError) -> Trouble:
    return Trouble(
        "pace-closed",
        f"Port {port} on {host} cannot be opened ({error.strerror or type(error).__name__}), so no message "
        "waits for its turn",
        hint=f"`ss -ltnp 'sport = :{port}'` shows what has it; the agent tries again by itself",
    )


async def _read_netstring(reader: asyncio.StreamReader) -> bytes:
    """Read one request, `14:rate [host]:587,`; nothing at the end or when it is no netstring."""
    length: Any = (await reader.readuntil(b":"))[:-1]
    if not length.isdigit() or int(length) > _MOST_KEY_BYTES:
        return b""
    return (await reader.readexactly(int(length) + 1))[:-1]

"""The account's rate on a real Postfix: a provider that answers 454 above it, and no waiting below it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from relay_agent import maillog
from relay_agent.pace import Bucket, Gate, LogReader
from relay_agent.rate import HEADROOM, Rate

from builder.conformance.client import Mail, send_all
from builder.conformance.local import LocalRelay
from builder.conformance.setups import SES, SETUPS, Setup, running
from builder.releases import Release
from builder.standin.behaviour import Behaviour, Fault
from builder.standin.provider import Provider

pytestmark = pytest.mark.postfix

_QUOTA = 20


@dataclass(frozen=True)
class Paced:
    """A relay with the gate in force."""

    relay: LocalRelay
    provider: Provider
    bucket: Bucket
    gate: Gate
    others: tuple[Provider, ...] = ()

    def offer(self, count: int) -> float:
        """Hand messages to the relay as fast as it takes them; return the moment when that began."""
        started = time.monotonic()
        sent = send_all(self.relay.smtp_address, [Mail((f"to{n}@example.net",)) for n in range(count)])
        assert [answer.reply[:3] for answer in sent] == ["250"] * count
        return started

    def wait_for(self, count: int, *, timeout_seconds: float) -> None:
        """Wait until the provider has as many messages."""
        _wait_for(self.provider, count, timeout_seconds=timeout_seconds)


def _wait_for(provider: Provider, count: int, *, timeout_seconds: float = 20) -> None:
    provider.wait_for(lambda: provider.counts.messages >= count, timeout_seconds=timeout_seconds)


@pytest.fixture
def paced(request: pytest.FixtureRequest, release: Release, tmp_path: Path) -> Iterator[Paced]:
    """A relay of the plain setup, or of the one that is the fixture's parameter."""
    bucket = Bucket()
    gate = Gate(bucket, port=0)
    gate.start()
    setup = replace(
        getattr(request, "param", SETUPS["plain"]),
        parameters={"smtp_connection_cache_destinations": gate.table},
    )
    with contextlib.ExitStack() as stack:
        bed = stack.enter_context(running(setup, release, tmp_path))
        stack.callback(gate.stop)
        lines = [f"{upstream.host} {upstream.user}:{upstream.password}\n" for upstream in bed.upstreams]
        bed.relay.write_file("/run/relay/sasl", "".join(lines), mode=0o600)
        first, *others = [upstream.provider for upstream in bed.upstreams]
        yield Paced(bed.relay, first, bucket, gate, tuple(others))


def _set(bucket: Bucket, *, account: float, relays: int = 1) -> Rate:
    rate = Rate("fleet", bucket, account=lambda: account, relays=lambda: relays)
    rate.check()
    return rate


@contextlib.contextmanager
def _following(paced: Paced) -> Iterator[None]:
    """Hand the mail log to the bucket while the block runs, as the agent does."""
    reader, done, ended = LogReader(paced.bucket, SES), 0, threading.Event()

    def follow() -> None:
        nonlocal done
        while not ended.wait(0.3):
            lines = paced.relay.log().splitlines()
            for line in lines[done:]:
                _stamp, _, rest = line.partition(" postfix/")
                program, _, message = rest.partition(": ")
                event = maillog.parse("postfix/" + program.partition("[")[0], message)
                if event is not None:
                    reader.observe(event, time.time())
            done = len(lines)

    thread = threading.Thread(target=follow)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_far_over_the_quota_at_most_one_delivery_in_a_hundred_is_throttled(paced: Paced) -> None:
    _set(paced.bucket, account=_QUOTA)
    paced.provider.behave(Behaviour(Fault.RATE, limit=_QUOTA))
    count = 20 * _QUOTA
    with _following(paced):
        started = paced.offer(count)
        offered = count / (time.monotonic() - started)
        paced.provider.wait_for(lambda: paced.provider.counts.offered >= count, timeout_seconds=60)
        took = time.monotonic() - started

    assert offered > 2 * _QUOTA
    throttled = sum(refusal.reply.startswith("454") for refusal in paced.provider.refusals)
    assert throttled <= 0.01 * count
    # At the share, or a little below it when this machine was so busy that 454 was heard.
    assert 0.7 < count / took / (_QUOTA * HEADROOM) < 1.05


def test_below_the_quota_nothing_waits(paced: Paced) -> None:
    def seconds_for(count: int) -> float:
        before = paced.provider.counts.messages
        started = paced.offer(count)
        paced.wait_for(before + count, timeout_seconds=20)
        return time.monotonic() - started

    seconds_for(20)  # opens the sessions
    without = seconds_for(200)
    _set(paced.bucket, account=500)
    # At a tenth of the quota these would take four seconds.
    assert seconds_for(200) < 2 * without + 1
    assert paced.provider.refusals == ()


def test_a_relay_more_in_the_fleet_slows_this_one_without_a_reload(paced: Paced) -> None:
    _set(paced.bucket, account=40)
    paced.offer(120)
    paced.wait_for(40, timeout_seconds=20)
    _set(paced.bucket, account=40, relays=4)
    time.sleep(1.5)  # what went in the last second counts against the new rate
    before, at = paced.provider.counts.messages, time.monotonic()
    time.sleep(3)
    rate = (paced.provider.counts.messages - before) / (time.monotonic() - at)

    assert rate == pytest.approx(10 * HEADROOM, rel=0.3)
    assert "reload" not in paced.relay.log()


def test_a_small_rate_holds_for_longer_than_postfix_waits_for_an_answer(paced: Paced) -> None:
    """Postfix gives a table up after 100 s in which nothing came from it, and then sends."""
    paced.bucket.set_rate(0.001)
    paced.bucket.take()
    deadline = paced.offer(3) + 110
    while time.monotonic() < deadline:
        assert paced.provider.counts.messages == 0
        time.sleep(1)
    assert "socketmap" not in paced.relay.log()
    paced.bucket.set_rate(None)
    paced.wait_for(3, timeout_seconds=20)
    assert "socketmap" not in paced.relay.log()


@pytest.mark.parametrize(
    "paced",
    [
        Setup({**SETUPS["routes"].config, "quota": {"messages_per_second": 1}}, hosts=SETUPS["routes"].hosts),
        Setup(
            {**SETUPS["warm-up"].config, "quota": {"messages_per_second": 1}}, hosts=SETUPS["warm-up"].hosts
        ),
    ],
    indirect=True,
    ids=["routes", "warm-up"],
)
def test_mail_of_other_accounts_does_not_wait(paced: Paced) -> None:
    paced.bucket.set_rate(0.001)
    paced.bucket.take()
    to_others = [
        *(Mail((f"to{n}@partner.example",)) for n in range(40)),
        *(Mail((f"to{n}@example.net",), sender="app@news.example") for n in range(40)),
    ]
    send_all(paced.relay.smtp_address, to_others)
    for other in paced.others:
        # A quarter of the mail is enough for the warm-up; what goes to the first provider waits.
        _wait_for(other, 5)
    assert paced.provider.counts.messages == 0
    assert paced.bucket.granted == 1


def test_without_the_agent_mail_goes_on(paced: Paced) -> None:
    paced.gate.stop()
    paced.offer(5)
    paced.wait_for(5, timeout_seconds=20)
    assert "smtp_connection_cache_destinations" in paced.relay.log()


def test_each_delivery_asks_once_and_sessions_are_kept(paced: Paced) -> None:
    _set(paced.bucket, account=100)
    paced.offer(60)
    paced.wait_for(60, timeout_seconds=20)
    assert paced.bucket.granted == 60
    assert len(paced.provider.sessions) < 60

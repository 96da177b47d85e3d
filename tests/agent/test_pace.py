"""When a message may go: the rate, what the mail log adds, and the answers that Postfix waits for."""

from __future__ import annotations

import io
import socket
from bisect import bisect_left
from typing import Any

import pytest
from relay_agent import loops, metrics, pace
from relay_agent.board import Board
from relay_agent.logs import Log
from relay_agent.maillog import Delivery
from relay_agent.pace import Bucket, Gate, LogReader
from relay_agent.places import Places
from relay_agent.rate import HEADROOM, Rate
from relay_agent.traffic import Traffic

from tests.agent.clock import Clock
from tests.waiting import wait_until

HOST = "smtp.example.com"


def send(bucket: Bucket, clock: Clock, *, seconds: float, offered: float = 1e9) -> list[float]:
    """Send as fast as bucket and `offered` (messages per second) let; return when each message went."""
    sent: list[float] = []
    end, arrives = clock.now + seconds, clock.now
    while True:
        clock.now = max(clock.now + bucket.wait_seconds(), arrives)
        if clock.now >= end:
            return sent
        if bucket.wait_seconds() == 0:
            bucket.take()
            sent.append(clock.now)
            arrives += 1 / offered


@pytest.mark.parametrize("rate", [0.001, 0.2, 1, 3.3, 14, 200])
def test_never_more_than_the_rate_in_a_second(rate: float, clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(rate)
    sent = send(bucket, clock, seconds=30)
    most = max(bisect_left(sent, start + 1) - bisect_left(sent, start) for start in sent)
    assert sent == sorted(sent)
    assert most <= max(1, -(-rate // 1))
    assert len(sent) == pytest.approx(30 * rate, rel=0.1, abs=1)


def test_below_the_rate_nothing_waits(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(20)
    sent = send(bucket, clock, seconds=30, offered=18)
    gaps = [later - earlier for earlier, later in zip(sent, sent[1:], strict=False)]
    assert max(gaps) == pytest.approx(1 / 18)


def test_without_a_rate_nothing_waits(clock: Clock) -> None:
    bucket = Bucket(clock)
    for _ in range(1000):
        bucket.take()
    assert bucket.wait_seconds() == 0
    assert bucket.rate() is None


def test_further_recipients_of_a_message_are_counted_when_the_log_names_them(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(10)
    reader = LogReader(bucket, HOST, clock)
    bucket.take()
    for _ in range(50):
        reader.observe(delivery("4bXyZ1", code=250), clock.now)
    # Two of the first quarter may still go at once.
    assert bucket.wait_seconds() == pytest.approx((50 - 2) / 10)


@pytest.mark.parametrize("rate", [0.01, 1, 14])
@pytest.mark.parametrize("recipients", [2, 50])
def test_messages_to_many_keep_the_rate_in_recipients(rate: float, recipients: int, clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(rate)
    started, sent = clock.now, 0
    while sent < 100 * recipients:
        wait = bucket.wait_seconds()
        clock.now += wait
        if wait == 0:
            bucket.take()
            bucket.charge(recipients - 1)
            sent += recipients
    assert sent - recipients <= rate * (clock.now - started) + max(1, rate) + recipients
    assert sent == pytest.approx(rate * (clock.now - started), rel=0.1)


def test_a_debt_is_paid_sooner_when_the_rate_rises(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(1)
    bucket.charge(100)
    bucket.set_rate(10)
    assert bucket.wait_seconds() == pytest.approx((100 - 2) / 10)


def test_nothing_in_the_log_stops_the_mail_for_more_than_a_day(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(1)
    bucket.charge(10**9)
    assert bucket.wait_seconds() == pytest.approx(86400)


def test_what_another_provider_takes_or_says_is_no_matter_of_this_rate(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(10)
    reader = LogReader(bucket, HOST, clock)
    for _ in range(50):
        reader.observe(delivery("4bXyZ1", code=250, relay="smtp.sendgrid.net"), clock.now)
    reader.observe(delivery("4bXyZ2", code=454, reason="throttled", relay="smtp.sendgrid.net"), clock.now)
    assert bucket.wait_seconds() == 0
    assert bucket.rate() == 10


def test_a_retry_of_the_same_message_is_no_further_recipient(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(10)
    reader = LogReader(bucket, HOST, clock)
    for _ in range(3):
        reader.observe(delivery("4bXyZ1", code=250), clock.now)
        clock.now += 60
    assert bucket.wait_seconds() == 0


def test_what_an_agent_that_starts_reads_of_the_past_counts_for_nothing(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(10)
    reader = LogReader(bucket, HOST, clock)
    for _ in range(50):
        reader.observe(delivery("4bXyZ1", code=250), clock.now - 300)
    reader.observe(delivery("4bXyZ2", code=454, reason="throttled"), clock.now - 300)
    assert bucket.wait_seconds() == 0
    assert bucket.rate() == 10


def test_throttling_slows_for_a_while_and_once_for_a_burst(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(100)
    reader = LogReader(bucket, HOST, clock)
    for number in range(20):
        reader.observe(delivery(f"4bXyZ{number}", code=454, reason="throttled"), clock.now)
    assert bucket.rate() == pytest.approx(80)
    clock.now += 60
    assert bucket.rate() == pytest.approx(100)


def test_the_gate_answers_postfix_in_its_own_protocol() -> None:
    gate = Gate(Bucket(), port=0)
    gate.start()
    try:
        assert gate.table == f"socketmap:inet:127.0.0.1:{gate.port}:rate"
        with socket.create_connection(("127.0.0.1", gate.port), timeout=5) as client:
            for _ in range(2):
                client.sendall(b"21:rate smtp.example.com,")
                assert client.recv(100) == b"6:OK yes,"
    finally:
        gate.stop()


@pytest.mark.parametrize("request_", [b"nonsense", b"x:rate,", b"99999:rate,"])
def test_the_gate_hangs_up_on_what_is_no_request(request_: bytes) -> None:
    gate = Gate(Bucket(), port=0)
    gate.start()
    try:
        with socket.create_connection(("127.0.0.1", gate.port), timeout=5) as client:
            client.sendall(request_)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
    finally:
        gate.stop()


def test_a_long_wait_begins_its_answer_so_that_postfix_does_not_give_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "_ALIVE_SECONDS", 0.05)
    bucket = Bucket()
    bucket.set_rate(0.001)
    bucket.take()
    gate = Gate(bucket, port=0)
    gate.start()
    try:
        with socket.create_connection(("127.0.0.1", gate.port), timeout=5) as client:
            client.sendall(b"21:rate smtp.example.com,")
            answer = b""
            while len(answer) < len(b"1003:OK yyy"):
                answer += client.recv(1)
            assert bucket.granted == 1
            bucket.set_rate(None)
            while not answer.endswith(b","):
                answer += client.recv(10_000)
            # The same client may ask again.
            client.sendall(b"21:rate smtp.example.com,")
            assert client.recv(100) == b"6:OK yes,"
    finally:
        gate.stop()
    length, _, payload = answer.partition(b":")
    assert int(length) == len(payload) - 1
    assert payload.startswith(b"OK y")


def test_a_message_is_not_counted_when_its_client_has_gone_before_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "_ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(pace, "_MOST_BYTES", 3)
    bucket = Bucket()
    bucket.set_rate(0.001)
    bucket.take()
    gate = Gate(bucket, port=0)
    gate.start()
    try:
        with socket.create_connection(("127.0.0.1", gate.port), timeout=5) as client:
            client.sendall(b"21:rate smtp.example.com,")
            answer = b"".join(iter(lambda: client.recv(100), b""))
        assert answer == b"6:OK yyy"  # it hangs up, and Postfix asks again
        assert bucket.granted == 1
    finally:
        gate.stop()


def test_a_port_that_is_taken_is_reported_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_FIRST_PAUSE_SECONDS", 0.05)
    said = io.StringIO()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gate = Gate(Bucket(), port=taken.getsockname()[1], log=Log(said))
        gate.start()
        assert gate.trouble is not None
        assert gate.trouble.code == "pace-closed"
        assert "pace-closed" in said.getvalue()
        assert loops.failures()["pace"] >= 1
        share = Rate(
            "node", gate.bucket, account=lambda: 40.0, relays=lambda: 1, gate_trouble=lambda: gate.trouble
        )
        share.check()
        shown = share.as_json()
        assert (shown["paced"], shown["in_force_per_second"]) == (False, None)
        assert shown["gate_reason"]["code"] == "pace-closed"
        assert "relay_send_rate_paced 0" in page_of(shown)
    wait_until(lambda: gate.trouble is None)
    shown = share.as_json()
    assert (shown["paced"], shown["in_force_per_second"]) == (True, pytest.approx(40 * HEADROOM))
    assert "relay_send_rate_paced 1" in page_of(shown)
    with socket.create_connection(("127.0.0.1", gate.port), timeout=5) as client:
        client.sendall(b"21:rate smtp.example.com,")
        assert client.recv(100) == b"6:OK yes,"
    gate.stop()


def delivery(queue_id: str, *, code: int, reason: str = "", relay: str = HOST) -> Delivery:
    """One line of the mail log."""
    status = "sent" if code < 400 else "deferred"
    return Delivery(queue_id, "to@example.net", relay, status, "2.0.0", code, reason, "", 0.1, True)


def page_of(shown: dict[str, Any]) -> str:
    """Return /metrics of a relay whose status shows this of the rate."""
    board = Board(Places(), Traffic(), version="test")
    board.set(rate=shown)
    return metrics.render(board)

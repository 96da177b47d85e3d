"""The sending rate: when a message may go, what this relay's share is, and what happens when nobody knows."""

from __future__ import annotations

import io
import json
import queue
import socket
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_agent import rate
from relay_agent.imds import Imds
from relay_agent.logs import Log
from relay_agent.maillog import Delivery
from relay_agent.pace import ADDRESS, Bucket, Gate, LogReader
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.rate import HEADROOM, Aws, Rate, Sessions, count_relays, read_quota, sessions_for
from relay_agent.secret import Library
from relay_agent.trouble import Trouble

from builder.standin.metadata import Metadata
from builder.standin.secrets import SecretsManager
from tests.agent.relay_world import agent_json, make_places
from tests.fakes import FakeTools
from tests.rendered import parameters, rendered


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path) -> Places:
    return make_places(tmp_path / "root")


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


@pytest.mark.parametrize("rate", [0.2, 1, 3.3, 14, 200])
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
    reader = LogReader(bucket)
    bucket.take()
    for _ in range(50):
        reader.observe(delivery("4bXyZ1", code=250), clock.now)
    assert bucket.wait_seconds() == pytest.approx(4.9)


def test_a_message_with_thousands_of_recipients_does_not_stop_the_others_for_long(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(1)
    bucket.charge(5000)
    assert bucket.wait_seconds() == pytest.approx(20)


def test_a_retry_of_the_same_message_is_no_further_recipient(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(10)
    reader = LogReader(bucket)
    for at in (0.0, 60.0, 120.0):
        reader.observe(delivery("4bXyZ1", code=250), at)
    assert bucket.wait_seconds() == 0


def test_throttling_slows_for_a_while_and_once_for_a_burst(clock: Clock) -> None:
    bucket = Bucket(clock)
    bucket.set_rate(100)
    reader = LogReader(bucket)
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


def test_a_port_that_is_taken_is_said_at_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        Gate(Bucket(), port=taken.getsockname()[1]).start()


def test_each_relay_gets_its_share_and_a_new_one_changes_it(clock: Clock) -> None:
    relays = [4]
    bucket = Bucket(clock)
    share = Rate("fleet", bucket, account=lambda: 40.0, relays=lambda: relays[0], monotonic=clock)
    assert share.check()
    assert bucket.rate() == pytest.approx(10 * HEADROOM)
    relays[0] = 5
    assert not share.check()  # not due yet
    clock.now += 31
    assert share.check()
    assert bucket.rate() == pytest.approx(8 * HEADROOM)


def test_a_share_by_node_asks_for_no_fleet(clock: Clock) -> None:
    bucket = Bucket(clock)
    share = Rate("node", bucket, account=lambda: 40.0, relays=unknown, monotonic=clock)
    share.check()
    assert bucket.rate() == pytest.approx(40 * HEADROOM)
    assert share.trouble is None


def test_what_cannot_be_found_out_keeps_its_last_value(clock: Clock) -> None:
    answers: list[Callable[[], int]] = [lambda: 2, unknown]
    bucket = Bucket(clock)
    share = Rate("fleet", bucket, account=lambda: 40.0, relays=lambda: answers[0](), monotonic=clock)
    share.check()
    del answers[0]
    clock.now += 31
    assert not share.check()
    assert bucket.rate() == pytest.approx(20 * HEADROOM)
    assert share.as_json()["reason"]["code"] == "quota-unknown"


def test_without_any_answer_nothing_is_slowed(clock: Clock) -> None:
    bucket = Bucket(clock)
    share = Rate("fleet", bucket, account=unknown, relays=lambda: 1, monotonic=clock)
    share.check()
    assert bucket.rate() is None
    assert share.trouble is not None


def test_the_number_of_relays_comes_from_the_nearest_file(files: Places) -> None:
    files.agent_json.write_text(json.dumps(agent_json()))
    assert count_relays(files, unknown) == 1
    files.agent_json.write_text(json.dumps(agent_json(fleet_size=2)))
    assert count_relays(files, unknown) == 2
    files.boot_json.write_text(json.dumps({"schema": 1, "fleet_size": "auto_scaling"}))
    assert count_relays(files, lambda: 7) == 7
    (files.run_dir / "fleet-size").write_text("3\n")
    assert count_relays(files, unknown) == 3


@pytest.mark.parametrize("written", ["0", "-1", "many", ""])
def test_a_number_of_relays_that_is_none_is_refused(files: Places, written: str) -> None:
    (files.run_dir / "fleet-size").write_text(written)
    with pytest.raises(Trouble, match="number of relays"):
        count_relays(files, unknown)


def test_the_quota_is_read_and_may_be_missing(files: Places) -> None:
    files.agent_json.write_text(json.dumps(agent_json()))
    assert read_quota(files) is None
    quota = {"messages_per_second": 14, "source": "config", "share": "node", "sessions": 100}
    files.agent_json.write_text(json.dumps(agent_json(quota=quota)))
    found = read_quota(files)
    assert found is not None
    assert (found.messages_per_second, found.share, found.sessions) == (14.0, "node", 100)


@pytest.mark.parametrize(
    "quota",
    [
        7,
        {"messages_per_second": 0},
        {"messages_per_second": "14"},
        {"source": "config"},
        {"messages_per_second": 1, "source": "guess"},
        {"messages_per_second": 1, "share": "half"},
        {"messages_per_second": 1, "sessions": 0},
    ],
)
def test_a_quota_that_cannot_be_is_refused(files: Places, quota: Any) -> None:
    files.agent_json.write_text(json.dumps(agent_json(quota=quota)))
    with pytest.raises(Trouble, match="Sending rate"):
        read_quota(files)


@pytest.mark.parametrize(("rate", "sessions"), [(500, 100), (1, 60), (0.1, 6), (0.001, 1)])
def test_no_message_waits_for_its_turn_longer_than_postfix_does(rate: float, sessions: int) -> None:
    assert sessions_for(rate, 100) == sessions


def test_the_concurrency_is_changed_only_when_it_must(files: Places, fake_tool: FakeTools) -> None:
    postconf = fake_tool("postconf", 'case "$1" in -h) echo 100;; esac')
    fake_tool("postfix", "exit 0")
    sessions = Sessions(Postfix(files), 100)
    assert not sessions.fit(None)
    assert not sessions.fit(50)
    assert sessions.fit(0.5)
    assert [call for call in postconf.calls if call[0] == "-e"] == [
        ["-e", "smtp_destination_concurrency_limit=30", "smtp_initial_destination_concurrency=20"]
    ]


@pytest.fixture(autouse=True)
def _end_the_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop what `rate.start` starts: in a later test it would run this machine's own `postconf`."""
    started: list[rate.RateThread] = []

    class Remembered(rate.RateThread):
        def start(self) -> None:
            started.append(self)
            super().start()

    monkeypatch.setattr(rate, "RateThread", Remembered)
    yield
    for thread in started:
        thread.stop()


def run_start(files: Places, quota: Any) -> tuple[Any, queue.Queue[dict[str, Any]], io.StringIO]:
    """Start as the agent does; return what it gave, what it published and what it logged."""
    values = agent_json() if quota is None else agent_json(quota=quota, fleet_size=2)
    files.agent_json.write_text(json.dumps(values))
    published: queue.Queue[dict[str, Any]] = queue.Queue()
    said = io.StringIO()
    observe = rate.start(files, Library(), Postfix(files), Log(said), published.put, port=0)
    return observe, published, said


def test_an_image_without_a_quota_has_no_gate(files: Places) -> None:
    observe, published, said = run_start(files, None)
    assert observe is None
    assert published.empty()
    assert said.getvalue() == ""


def test_a_quota_that_cannot_be_read_is_said_and_stops_nothing(files: Places) -> None:
    observe, _published, said = run_start(files, {"messages_per_second": "many"})
    assert observe is None
    assert "the sending rate is not limited" in said.getvalue()


def test_the_share_is_in_force_soon_after_the_start(files: Places, fake_tool: FakeTools) -> None:
    fake_tool("postconf", "echo 100")
    quota = {"messages_per_second": 40, "source": "config", "share": "fleet", "sessions": 100}
    observe, published, _said = run_start(files, quota)
    assert observe is not None
    assert published.get(timeout=10)["own_per_second"] == pytest.approx(20 * HEADROOM)


def test_an_image_with_a_quota_asks_where_the_agent_answers() -> None:
    files = rendered(quota={"messages_per_second": 14})
    table = parameters(files["root/etc/postfix/main.cf"])["smtp_connection_cache_destinations"]
    assert table == "socketmap:inet:{}:{}:rate".format(*ADDRESS)
    assert json.loads(files["root/etc/relay/agent.json"])["quota"] == {
        "messages_per_second": 14,
        "source": "config",
        "share": "fleet",
        "sessions": 100,
    }


def test_an_image_without_a_quota_asks_nobody() -> None:
    values = parameters(rendered()["root/etc/postfix/main.cf"])
    assert values["smtp_connection_cache_destinations"] == "static:all"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with SecretsManager() as service, Metadata() as metadata:
        library = Library()
        library.start()
        yield Aws(library, Imds(metadata.endpoint), lambda: "us-east-1", endpoint=service.endpoint)


def test_amazon_ses_is_asked_for_the_rate(aws: Aws) -> None:
    assert aws.send_rate() == 1.0  # moto's account is in the sandbox


def test_a_relay_outside_any_group_is_alone(aws: Aws) -> None:
    assert aws.relays_in_service() == 1


def unknown() -> Any:
    """Stand for a source that does not answer."""
    raise Trouble("quota-unknown", "Nobody knows")


def delivery(queue_id: str, *, code: int, reason: str = "") -> Delivery:
    """One line of the mail log."""
    status = "sent" if code < 400 else "deferred"
    return Delivery(queue_id, "to@example.net", "h", status, "2.0.0", code, reason, "", 0.1, True)

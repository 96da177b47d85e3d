"""Tests of what the agent does when something unexpected happens: every loop goes on, and says so."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_agent import loops, metrics, notify, rate
from relay_agent.board import Board
from relay_agent.credential import Credential
from relay_agent.door import Door
from relay_agent.follow import Follower, read_entry
from relay_agent.health import Server
from relay_agent.keeper import Keeper
from relay_agent.logs import Log
from relay_agent.pace import Bucket, Gate
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.programs import run, start
from relay_agent.rate import Rate, RateThread
from relay_agent.secret import CURRENT
from relay_agent.settings import Settings, Shape, Upstream
from relay_agent.traffic import Traffic
from relay_agent.trouble import Trouble, unexpected
from relay_agent.watch import QueueWatcher

from tests.agent.relay_world import FakePostfix, agent_json, upstream_json, write_json
from tests.agent.scripted_relay import Relay
from tests.fakes import FakeTools
from tests.waiting import wait_until

SHAPE = Shape("smtp", ("username", "password"), "{username}", "{password}")


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of the loops are a twentieth of the real ones."""
    monkeypatch.setattr(loops, "_FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(rate, "_ROUND_SECONDS", 0.05)


@pytest.fixture
def board(places: Places) -> Board:
    return Board(places, Traffic(), version="test")


@pytest.fixture
def relay(places: Places, postfix_programs: FakePostfix) -> Relay:
    return Relay(places, postfix_programs)


# -- the rate


class Account:
    """A source of the rate that breaks in a way nobody thought of, and then works."""

    def __init__(self, error: Exception) -> None:
        self.errors = [error]

    def __call__(self) -> float:
        if self.errors:
            raise self.errors.pop()
        return 20.0


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("AutoScalingGroupName")])
def test_a_rate_that_breaks_is_reported_and_found_again(board: Board, error: Exception) -> None:
    now = [0.0]
    rate = Rate("node", Bucket(), account=Account(error), relays=lambda: 1, monotonic=lambda: now[0])
    said = io.StringIO()
    shown: list[dict[str, Any]] = []
    thread = RateThread(rate, Log(said), shown.append)
    thread.start()
    wait_until(lambda: shown and shown[-1]["reason"])
    assert shown[-1]["reason"]["code"] == "internal-error"
    assert "internal-error" in said.getvalue()
    board.set(rate=shown[-1])
    page = metrics.render(board)
    assert "relay_send_rate_stale 1" in page
    assert 'relay_loop_failures_total{loop="rate"} 1' in page
    now[0] = 100.0
    wait_until(lambda: shown[-1]["own_per_second"])
    thread.stop()
    board.set(rate=shown[-1])
    page = metrics.render(board)
    assert "relay_send_rate_stale 0" in page
    assert 'relay_send_rate_limit_messages_per_second{scope="own"} 18' in page


def test_a_rate_thread_goes_on_after_an_error_in_itself() -> None:
    rate = Rate("node", Bucket(), account=lambda: 20.0, relays=lambda: 1)
    shown: list[dict[str, Any]] = []

    def publish(values: dict[str, Any]) -> None:
        shown.append(values)
        if len(shown) == 1:
            raise OSError(5, "Input/output error")

    thread = RateThread(rate, Log(io.StringIO()), publish)
    thread.start()
    wait_until(lambda: len(shown) > 1)
    thread.stop()
    assert loops.failures()["rate"] == 1


def test_a_gate_that_breaks_listens_again() -> None:
    class Breaking(Gate):
        errors = [RuntimeError("of the event loop")]

        async def _serve(self) -> None:
            if self.errors:
                raise self.errors.pop()
            await super()._serve()

    gate = Breaking(Bucket(), port=0)
    gate.start()
    assert loops.failures()["pace"] == 1
    assert ask(gate.port) == b"6:OK yes,"
    gate.stop()


def ask(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"20:rate [localhost]:587,")
            return client.recv(100)
    except OSError:
        return b""


# -- queue and mail log


class Started:
    """A follower that only remembers that it was started."""

    lines = restarts = 0

    def __init__(self) -> None:
        self.is_started = False

    def start(self) -> None:
        self.is_started = True


@pytest.mark.parametrize("error", [Trouble("program-slow", "`postfix status` is slow"), OSError(11, "again")])
def test_a_postfix_that_cannot_be_asked_at_boot_does_not_end_the_watch(
    board: Board, places: Places, postfix_programs: FakePostfix, error: Exception
) -> None:
    class Slow(Postfix):
        errors = [error]

        def is_running(self) -> bool:
            if self.errors:
                raise self.errors.pop()
            return super().is_running()

    follower = Started()
    said = io.StringIO()
    watcher = QueueWatcher(Slow(places), board, follower, Log(said))  # type: ignore[arg-type]
    watcher.start()
    wait_until(lambda: board.queue_read_at)
    watcher.stop()
    assert follower.is_started
    assert '"loop": "queue"' in said.getvalue()


def test_a_queue_that_nobody_understands_does_not_keep_the_mail_log_from_being_read(
    board: Board, places: Places, postfix_programs: FakePostfix
) -> None:
    postfix_programs.set_queue('{"queue_id": "4bXyZ1", "arrival_time": "yesterday"}\n')
    follower = Started()
    watcher = QueueWatcher(Postfix(places), board, follower, Log(io.StringIO()))  # type: ignore[arg-type]
    watcher.start()
    wait_until(lambda: follower.is_started)
    postfix_programs.set_queue("")
    wait_until(lambda: board.queue_read_at)
    watcher.stop()


LINE = json.dumps({"SYSLOG_IDENTIFIER": "postfix/qmgr", "MESSAGE": "4bZyX9w: removed", "__CURSOR": "c"})


def test_a_line_that_breaks_a_listener_does_not_end_the_reading(
    places: Places, fake_tool: FakeTools, tmp_path: Path
) -> None:
    (tmp_path / "journal").write_text(f"{LINE}\n{LINE}\n")
    fake_tool("journalctl", f"cat {tmp_path}/journal; exec sleep 60")
    seen = []

    def deliver(event: object, at: float) -> None:
        seen.append(event)
        if len(seen) == 1:
            raise ZeroDivisionError

    follower = Follower(places, Log(io.StringIO()), deliver)
    follower.start()
    wait_until(lambda: len(seen) > 1)
    follower.stop()
    assert loops.failures()["mail-log"] == 1


@pytest.mark.parametrize(
    "line", [b"[]", b'{"MESSAGE": [1000]}', b'{"MESSAGE": "x", "__REALTIME_TIMESTAMP": "soon"}', b"7"]
)
def test_an_odd_line_of_the_journal_is_left_out(line: bytes) -> None:
    assert read_entry(line) is None


# -- health


@pytest.fixture
def server(board: Board) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), board, Log(io.StringIO())) as server:
        yield server


def test_a_machine_without_threads_left_does_not_use_up_the_places(server: Server) -> None:
    class NoThreads(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    original, threading.Thread = threading.Thread, NoThreads  # type: ignore[misc]
    try:
        for _ in range(40):
            with socket.socket() as client, pytest.raises(RuntimeError):
                server.process_request(client, ("127.0.0.1", 1))
    finally:
        threading.Thread = original  # type: ignore[misc]
    assert server._places.acquire(blocking=False)


def test_a_broken_page_is_logged_without_a_traceback_or_a_value(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        raise ValueError("Canary+Pass/word")
    except ValueError:
        server.handle_error(None, None)
    assert server._log is not None
    assert isinstance(server._log._stream, io.StringIO)
    said = server._log._stream.getvalue()
    assert json.loads(said)["code"] == "internal-error"
    out = capsys.readouterr()
    assert "Canary" not in said + out.out + out.err
    assert "Traceback" not in out.err


# -- the loop itself


def test_an_error_that_nobody_expected_is_a_reason_and_not_an_end(relay: Relay) -> None:
    relay.rounds()
    relay.fetch_trouble = RecursionError("Canary+Pass/word")  # type: ignore[assignment]
    relay.rounds(1, seconds=67)
    assert relay.state == "ready"
    shown = relay.status["upstreams"][0]["reason"]
    assert shown["code"] == "internal-error"
    assert "RecursionError in" in shown["message"]
    assert "Canary" not in relay.log.getvalue() + json.dumps(relay.status)
    relay.fetch_trouble = None
    relay.rounds(1, seconds=67)
    assert relay.board.values()["upstreams"][0]["reason"] is None


def test_one_upstream_that_breaks_the_agent_leaves_the_other_alone(relay: Relay) -> None:
    second = upstream_json(name="backup", host="backup.example.com", secret="relay/backup")
    write_json(relay.places.agent_json, agent_json(upstreams=[upstream_json(), second]))
    relay.versions["relay/backup"] = ("b1", "password-b")
    relay.answers["password-1"] = KeyError("x")  # type: ignore[assignment]
    relay.rounds()
    assert relay.map == "backup.example.com user:password-b\n"
    assert relay.postfix.is_open


def test_a_loop_that_only_fails_is_left_to_systemd_after_some_tries(relay: Relay) -> None:
    relay.agent._door = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        relay.rounds(1)
    relay.restart()

    def broken() -> Settings:
        raise ZeroDivisionError

    relay.agent._read_settings = broken  # type: ignore[method-assign]
    relay.rounds(10, seconds=10)
    assert relay.reason == "internal-error"
    with pytest.raises(ZeroDivisionError):
        relay.rounds(1)


def test_a_map_that_is_no_text_does_not_keep_the_agent_from_starting(places: Places) -> None:
    places.sasl_map.write_bytes(b"localhost user:\xff\n")
    Door(places, Postfix(places), Log(io.StringIO()))


def test_nobody_to_log_to_is_no_reason_to_end() -> None:
    stream = io.StringIO()
    stream.close()
    Log(stream).info("start")


def test_half_a_character_in_a_line_is_replaced() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    Log(stream).info("reply", text="\ud800 after")
    stream.seek(0)
    assert json.loads(stream.read())["text"] == "? after"


def test_systemd_that_cannot_be_told_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_arguments: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setattr(socket, "socket", none_left)
    assert not notify.notify("READY=1")


def test_a_program_that_cannot_be_started_is_said(tmp_path: Path) -> None:
    for call in (run, start):
        with pytest.raises(Trouble) as caught:
            call([str(tmp_path)])
        assert caught.value.code == "program-failed"


def test_an_unexpected_error_shows_its_place_and_no_value() -> None:
    with pytest.raises(ValueError, match="Canary") as caught:
        int("Canary+Pass/word")
    trouble = unexpected("main", caught.value)
    assert "ValueError in test_an_unexpected_error" in trouble.message
    assert "Canary" not in trouble.message


def test_an_error_in_a_check_waits_for_the_next_one() -> None:
    now = [0.0]
    upstream = Upstream("p", "localhost", 587, "starttls", (SHAPE,), ("plain",), "s", None)

    def broken(_upstream: Upstream, _stage: str = CURRENT) -> Any:
        raise TypeError

    def prove(_upstream: Upstream, _credential: Credential) -> None:
        raise AssertionError

    keeper = Keeper(upstream, fetch=broken, prove=prove, poll_seconds=60, monotonic=lambda: now[0])
    assert not keeper.check()
    assert keeper.due > now[0]
    assert keeper.trouble is not None
    assert keeper.trouble.code == "internal-error"

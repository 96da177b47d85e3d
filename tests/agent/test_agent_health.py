"""Tests of relay_agent.health, metrics and board: what a load balancer and Prometheus see."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from relay_agent import health, metrics
from relay_agent.board import Board
from relay_agent.health import Health, Server
from relay_agent.logs import Log, hide
from relay_agent.maillog import parse
from relay_agent.mailqueue import parse as parse_queue
from relay_agent.mailqueue import summarize
from relay_agent.places import Places
from relay_agent.traffic import Traffic

from tests.waiting import wait_until

REASON = {"code": "secret-missing", "message": "There is no secret `relay/ses`", "hint": "put it"}
UPSTREAM = {
    "name": "primary",
    "host": "localhost",
    "state": "proven",
    "version_id": "v1",
    "version_created": 1000.0,
    "refused_version": None,
    "reason": None,
    "counts": {"rotations": 2, "refused": 1, "failed_checks": 3},
}
LINES = (
    ("postfix/cleanup", "4bZyX9w: message-id=<1@example.com>"),
    ("postfix/qmgr", "4bZyX9w: from=<s@example.com>, size=490, nrcpt=1 (queue active)"),
    (
        "postfix/smtp",
        "4bZyX9w: to=<a@example.org>, relay=h[192.0.2.1]:587, conn_use=2, delay=0.7, delays=0/0/0.1/0.6, "
        "dsn=2.0.0, status=sent (250 Ok)",
    ),
    (
        "postfix/smtp",
        "4bZyX9x: to=<b@example.org>, relay=h[192.0.2.1]:587, delay=7, delays=0/0/0.1/6.9, dsn=4.0.0, "
        "status=deferred (host h[192.0.2.1] said: 454 Throttling failure (in reply to end of DATA command))",
    ),
    ("postfix/smtp", "Verified TLS connection established to h[192.0.2.1]:587: TLSv1.3 with cipher x"),
    (
        "postfix/smtpd",
        "NOQUEUE: reject: RCPT from unknown[203.0.113.9]: 554 5.7.1 <x@y>: Relay access denied",
    ),
)


@pytest.fixture
def board(places: Places) -> Board:
    return Board(places, Traffic(), version="0.1.0")


@pytest.fixture
def server(board: Board) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), board) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def port(server: Server) -> int:
    return server.server_port


def get(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    found = answer.status, answer.headers["Content-Type"], answer.read().decode()
    connection.close()
    return found


@pytest.mark.parametrize(
    ("state", "status", "accepting"),
    [
        ("starting", 503, False),
        ("failed", 503, False),
        ("ready", 200, True),
        ("degraded", 200, True),
        ("full", 503, False),
        ("draining", 503, False),
    ],
)
def test_readyz_follows_the_state(board: Board, port: int, state: str, status: int, accepting: bool) -> None:
    board.set_state(state, None if state == "ready" else REASON)
    found, kind, body = get(port, "/readyz")
    assert (found, kind) == (status, "application/json")
    shown = json.loads(body)
    assert (shown["state"], shown["accepting"]) == (state, accepting)
    if state != "ready":
        assert shown["reason"]["code"] == "secret-missing"
        assert "There is no secret" in shown["message"]


def test_livez_is_about_the_agent_and_not_the_provider(board: Board, port: int) -> None:
    board.set_state("failed", REASON)
    assert get(port, "/livez")[0] == 200
    board._beat = time.monotonic() - 1000
    assert get(port, "/livez")[0] == 503


def test_other_paths_are_not_found_and_head_has_no_body(port: int) -> None:
    assert get(port, "/etc/passwd")[0] == 404
    assert get(port, "/readyz?verbose", "HEAD")[2] == ""


def test_a_secret_in_a_reason_does_not_reach_http(board: Board, port: int) -> None:
    hide("hunter22-hunter22")
    board.set_state("failed", {**REASON, "message": "the server said hunter22-hunter22"})
    for path in ("/readyz", "/metrics"):
        assert "hunter22" not in get(port, path)[2]


def test_too_many_clients_are_turned_away_and_the_next_one_is_served(server: Server) -> None:
    port = server.server_port
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(health._MOST_AT_ONCE)]
    wait_until(lambda: len(server._since) == len(idle))
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        get(port, "/livez")
    for client in idle:
        client.close()
    wait_until(lambda: not server._since)
    assert get(port, "/livez")[0] == 200


class Drip(threading.Thread):
    """A client that sends a byte now and then, and comes again as soon as it is cut off."""

    def __init__(self, port: int, *, comes_again: bool) -> None:
        super().__init__(daemon=True)
        self.port, self.comes_again = port, comes_again
        self.is_in, self.cuts, self.ended = threading.Event(), 0, threading.Event()

    def run(self) -> None:
        while not self.ended.is_set() and (self.comes_again or not self.cuts):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as client:
                client.sendall(b"GET /livez HTTP/1.1\r\nX-Drip: ")
                self.is_in.set()
                client.settimeout(0.05)
                while not self.ended.is_set() and self._stays(client):
                    client.sendall(b"x")
            self.cuts += 1

    @staticmethod
    def _stays(client: socket.socket) -> bool:
        try:
            return client.recv(100) != b""
        except TimeoutError:
            return True


@pytest.fixture
def drips(port: int) -> Iterator[Callable[..., list[Drip]]]:
    started: list[Drip] = []

    def start(*, comes_again: bool) -> list[Drip]:
        started.extend(Drip(port, comes_again=comes_again) for _ in range(health._MOST_AT_ONCE))
        for drip in started:
            drip.start()
        for drip in started:
            assert drip.is_in.wait(10)
        return started

    yield start
    for drip in started:
        drip.ended.set()
    for drip in started:
        drip.join(10)


def test_clients_that_drip_are_cut_off(server: Server, drips: Callable[..., list[Drip]]) -> None:
    """Each byte comes long before the timeout of a read."""
    server.client_seconds = 0.3
    clients = drips(comes_again=False)
    wait_until(lambda: all(client.cuts for client in clients), seconds=30)
    wait_until(lambda: not server._since, seconds=30)
    assert get(server.server_port, "/livez")[0] == 200


def test_clients_that_drip_for_ever_do_not_keep_others_out(
    server: Server, drips: Callable[..., list[Drip]]
) -> None:
    server.client_seconds, server.least_seconds = 3600.0, 0.0
    drips(comes_again=True)
    assert [get(server.server_port, "/livez")[0] for _ in range(30)] == [200] * 30
    names = [thread.name for thread in threading.enumerate() if "process_request_thread" in thread.name]
    assert len(names) <= health._MOST_AT_ONCE


def test_a_taken_health_port_does_not_stop_the_agent(
    board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Health(board, Log(), host="127.0.0.1")
        server.start(taken.getsockname()[1])
        deadline = time.monotonic() + 5
        while "health port" not in (text := capsys.readouterr().out) and time.monotonic() < deadline:
            time.sleep(0.05)
        server.stop()
    assert "the health port cannot be opened" in text


def fill(board: Board) -> None:
    for program, message in LINES:
        event = parse(program, message)
        assert event is not None
        board.traffic.add(event)
    now = int(time.time())
    entry = {"queue_name": "deferred", "queue_id": "4bZyX9x", "arrival_time": now - 90, "message_size": 490}
    entry["recipients"] = [{"address": "b@example.org", "delay_reason": "host h said: 454 Throttling"}]
    board.set_queue(summarize(parse_queue([json.dumps(entry), "torn {"])))
    board.set(upstreams=[UPSTREAM], preset="ses")
    board.set_state("ready", None)


def samples(page: str) -> dict[str, float]:
    found = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def test_metrics_count_what_the_log_says(board: Board, port: int) -> None:
    fill(board)
    status, kind, page = get(port, "/metrics")
    found = samples(page)
    assert (status, kind) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert found['relay_messages_accepted_total{sender="address"}'] == 1
    assert found['relay_deliveries_total{result="delivered",reply_class="2xx",reason="delivered"}'] == 1
    assert found['relay_deliveries_total{result="deferred",reply_class="4xx",reason="throttled"}'] == 1
    assert found["relay_deliveries_reusing_connection_total"] == 1
    assert found['relay_tls_connections_total{trust="verified",use="new"}'] == 1
    assert found['relay_clients_rejected_total{code="554"}'] == 1
    assert found['relay_queue_messages{queue="deferred"}'] == 1
    assert 89 <= found['relay_queue_oldest_age_seconds{queue="deferred"}'] <= 95
    assert found['relay_queue_waiting_recipients{reason="throttled"}'] == 1
    assert found['relay_state{relay_state="ready"}'] == 1
    assert found['relay_credential_info{upstream="primary",version_id="v1"}'] == 1
    assert found['relay_credential_rotations_total{upstream="primary"}'] == 2
    assert found['relay_delivery_delay_seconds_bucket{le="0.5"}'] == 0
    assert found['relay_delivery_delay_seconds_bucket{le="1.0"}'] == 1
    assert found["relay_delivery_delay_seconds_count"] == 1
    assert "example.org" not in page


def test_metrics_say_for_each_domain_whether_it_is_signed(board: Board) -> None:
    assert "relay_dkim_signing{" not in metrics.render(board)
    board.set(dkim={"signing": False, "keys": [{"domain": "example.com"}]})
    assert 'relay_dkim_signing{domain="example.com"} 0' in metrics.render(board)


def test_metrics_keep_the_rules_of_openmetrics(board: Board) -> None:
    """Of the specification: one block for each family, metadata first, suffixes by type, EOF at the end."""
    fill(board)
    lines = metrics.render(board).splitlines()
    assert lines[-1] == "# EOF"
    kinds: dict[str, str] = {}
    current = ""
    for line in lines[:-1]:
        if line.startswith("# TYPE "):
            current, kind = line.split()[2:]
            assert current not in kinds
            kinds[current] = kind
        elif line.startswith("#"):
            assert line.split()[2] == current
        else:
            match = re.fullmatch(r'([a-z_]+)(\{([a-z_]+="[^"\n]*",?)*\})? -?[0-9.e+-]+|\S+ \S+', line)
            assert match, line
            suffixes = {
                "counter": ("_total",),
                "info": ("_info",),
                "histogram": ("_bucket", "_count", "_sum"),
            }.get(kinds[current], ("",))
            name = re.split(r"[{ ]", line)[0]
            assert name in {current + suffix for suffix in suffixes}, line
    assert set(kinds) == set(metrics.FAMILIES)


def test_a_submission_port_has_metrics_only_where_there_is_one(board: Board) -> None:
    assert "relay_submission_open" not in samples(metrics.render(board))
    board.set(submission={"open": False, "users": 3})
    found = samples(metrics.render(board))
    assert (found["relay_submission_open"], found["relay_submission_users"]) == (0, 3)


def test_a_clock_that_went_back_does_not_count_what_is_to_come() -> None:
    now = 10_000.0
    traffic = Traffic(lambda: now)
    event = parse(*LINES[0])
    assert event is not None
    traffic.add(event, now)
    now -= 3600
    assert traffic.summary()["rate_in"]["60"] == 0


def test_status_json_has_what_relayctl_shows(board: Board, places: Places) -> None:
    fill(board)
    board.write()
    status = json.loads(places.status_json.read_text())
    assert status["queue"]["total"] == 1
    assert status["traffic"]["deliveries"] == {"delivered": 1, "deferred": 1}
    assert status["traffic"]["last_errors"]["throttled"]["code"] == 454
    assert status["traffic"]["rate_out"]["60"] > 0
    assert status["credential"]["version_id"] == "v1"

"""Tests of relay_agent.oauth and what the keeper makes of it: tokens that end, services that refuse."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from relay_agent import credential, logs
from relay_agent.keeper import Keeper
from relay_agent.oauth import AccessToken, TokenRequest, exchange
from relay_agent.probe import Prover
from relay_agent.secret import CURRENT, SecretVersion
from relay_agent.settings import Shape, Upstream, load
from relay_agent.trouble import Trouble

from builder.standin.provider import Provider
from tests.agent.relay_world import agent_json, make_places, upstream_json, write_json

SECRET = {
    "username": "relay@example.com",
    "tenant": "contoso/../x",
    "client_id": "the-client",
    "client_secret": "the-client-secret",
    "refresh_token": "the-refresh-token",
}
SHAPE = Shape(
    "oauth_refresh_token",
    tuple(SECRET),
    "{username}",
    "{refresh_token}",
    None,
    "https://login.example.com/{tenant}/token",
    "refresh_token",
    "https://mail.google.com/",
)
APPLICATION = Shape(
    "oauth_application",
    ("username", "client_id", "client_secret"),
    "{username}",
    "{client_secret}",
    None,
    "https://login.example.com/token",
    "client_credentials",
    None,
)


class Service(HTTPServer):
    """A token service that answers as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.answer = 200, json.dumps({"access_token": "access-1", "expires_in": 3600})
        self.forms: list[dict[str, list[str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/token"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.forms.append(parse_qs(body))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.answer.encode())

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as service:
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield service
        service.shutdown()
        thread.join()


def read(shape: Shape) -> credential.Credential:
    return credential.read(json.dumps(SECRET), shapes=[shape], secret="relay/gmail", region=None)


def test_a_refresh_token_is_asked_with_as_rfc_6749_says() -> None:
    token = read(SHAPE).token
    assert token is not None
    assert token.url == "https://login.example.com/contoso%2F..%2Fx/token"
    assert token.form == {
        "grant_type": "refresh_token",
        "client_id": "the-client",
        "client_secret": "the-client-secret",
        "refresh_token": "the-refresh-token",
        "scope": "https://mail.google.com/",
    }
    assert "the-refresh-token" not in repr(token)


def test_an_application_asks_with_its_own_secret() -> None:
    token = read(APPLICATION).token
    assert token is not None
    assert token.form == {
        "grant_type": "client_credentials",
        "client_id": "the-client",
        "client_secret": "the-client-secret",
    }


def test_an_access_token_comes_with_its_life(service: Service) -> None:
    found = exchange(TokenRequest(service.url, {"grant_type": "refresh_token"}))
    assert (found.token, found.seconds) == ("access-1", 3600.0)
    assert service.forms == [{"grant_type": ["refresh_token"]}]
    assert logs.clean("access-1 is hidden") == "[hidden] is hidden"


@pytest.mark.parametrize(
    ("status", "answer", "code", "lasting"),
    [
        (400, {"error": "invalid_grant", "error_description": "hunter22 ended"}, "token-refused", True),
        (401, {"error": "invalid_client"}, "token-refused", True),
        (429, {"error": "slow_down"}, "token-temporary", False),
        (503, "not JSON", "token-temporary", False),
        (200, {"token": "x"}, "token-temporary", False),
    ],
)
def test_a_refusal_is_named_without_its_description(
    service: Service, status: int, answer: Any, code: str, lasting: bool
) -> None:
    service.status, service.answer = status, json.dumps(answer)
    with pytest.raises(Trouble) as caught:
        exchange(TokenRequest(service.url, {}))
    assert (caught.value.code, caught.value.lasting) == (code, lasting)
    assert "hunter22" not in caught.value.message


def test_a_service_that_is_away_is_told_apart(service: Service) -> None:
    url = service.url.replace(str(service.server_port), "9")
    with pytest.raises(Trouble) as caught:
        exchange(TokenRequest(url, {}))
    assert caught.value.code == "token-unreachable"


DRIPS = {
    "before": b"",
    "head": b"HTTP/1.1 200 OK\r\nX-Drip: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n",
    "endless": b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps({"access_token": "access-1"}).encode(),
}


@pytest.mark.parametrize("begins", DRIPS)
def test_a_service_that_drips_is_given_up(begins: str) -> None:
    """Each byte comes long before the timeout of a read."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(DRIPS[begins])
                while not ended.wait(0.02):
                    client.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/token"
        with pytest.raises(Trouble) as caught:
            exchange(TokenRequest(url, {}), deadline_seconds=0.3)
        ended.set()
        thread.join()
    assert caught.value.code == "token-unreachable"
    assert "no whole answer within 0 s" in caught.value.message


def test_a_host_with_an_address_that_does_not_answer_is_tried_at_the_next(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = socket.getaddrinfo("127.0.0.1", service.server_port, type=socket.SOCK_STREAM)
    closed = socket.getaddrinfo("127.0.0.1", 9, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: closed + found)
    assert exchange(TokenRequest(service.url, {})).token == "access-1"


class World:
    """A keeper whose tokens and clock the test makes."""

    def __init__(self) -> None:
        self.now, self.tokens, self.proven = 0.0, 0, list[str]()
        self.trouble: Trouble | None = None
        upstream = Upstream("primary", "smtp.gmail.com", 587, "starttls", (SHAPE,), ("xoauth2",), "s", None)
        self.keeper = Keeper(
            upstream,
            fetch=lambda _upstream, _stage=CURRENT: SecretVersion(json.dumps(SECRET), "v1", 1.0),
            prove=lambda _upstream, found: self.proven.append(found.password),
            exchange=self.exchange,
            poll_seconds=60,
            monotonic=lambda: self.now,
        )

    def exchange(self, _request: TokenRequest) -> AccessToken:
        if self.trouble:
            raise self.trouble
        self.tokens += 1
        return AccessToken(f"access-{self.tokens}", 3600)


def test_a_token_is_renewed_well_before_it_ends() -> None:
    world = World()
    assert world.keeper.check()
    for _ in range(60):
        world.now += 67
        world.keeper.check()
    assert world.proven == ["access-1", "access-2"]
    current = world.keeper.current
    assert current is not None
    assert current.credential.password == "access-2"
    assert world.keeper.counts["rotations"] == 0


def test_a_grant_that_is_revoked_degrades_and_recovers() -> None:
    world = World()
    world.keeper.check()
    world.trouble = Trouble("token-refused", "no", lasting=True)
    world.now = 3000.0
    assert not world.keeper.check()
    assert not world.keeper.is_proven
    world.trouble, world.now = None, 3100.0
    assert world.keeper.check()
    assert world.keeper.is_proven


def test_an_access_token_is_proven_with_xoauth2(tmp_path: Path) -> None:
    user = "relay@example.com"
    with Provider(users={user: "access-1"}, host_names=("localhost",), mechanisms=("XOAUTH2",)) as provider:
        ca_file = tmp_path / "ca.pem"
        ca_file.write_text(provider.ca_pem)
        prover = Prover(ca_file=ca_file, hello="relay.example.com", timeout_seconds=5)
        upstream = Upstream("primary", "localhost", provider.port, "starttls", (), ("xoauth2",), "s", None)
        prover.prove(upstream, credential.Credential(user, "access-1"))
        with pytest.raises(Trouble) as caught:
            prover.prove(upstream, credential.Credential(user, "access-ended"))
    assert caught.value.code == "auth-refused"
    assert [attempt.accepted for attempt in provider.auths] == [True, False]


def test_agent_json_says_how_a_token_is_got(tmp_path: Path) -> None:
    shape = {
        "name": "oauth_refresh_token",
        "fields": list(SECRET),
        "username": "{username}",
        "password": "{refresh_token}",
        "derive": None,
        "mechanism": "xoauth2",
        "token_url": "https://login.example.com/{tenant}/token",
        "grant": "refresh_token",
        "scope": "https://mail.google.com/",
    }
    places = make_places(tmp_path)
    write_json(
        places.agent_json, agent_json(upstreams=[upstream_json(shapes=[shape], mechanisms=["xoauth2"])])
    )
    assert load(places).upstreams[0].shapes[0] == SHAPE
    for key, wrong in (("token_url", "http://login.example.com/"), ("grant", "password")):
        broken = upstream_json(shapes=[{**shape, key: wrong}])
        write_json(places.agent_json, agent_json(upstreams=[broken]))
        with pytest.raises(Trouble, match=key):
            load(places)

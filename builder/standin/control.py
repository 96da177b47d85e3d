"""The provider stand-in's JSON interface on loopback, for tests and benchmarks in other processes.

    GET    /                             addresses, counts, behaviours
    GET    /messages?since=N             accepted messages after the first N; also /refused-messages
    GET    /sessions /auths /leaks /refusals
    GET    /wait?messages=N&seconds=S    wait until a counter (any of `counts`) reached N, else 408
    PUT    /behaviours      [{"fault": "throttled"}]
    DELETE /behaviours
    POST   /next-sessions   {"count": 3, "behaviours": [{"fault": "greeting_421"}]}
    POST   /next-messages   {"count": 3, "behaviours": [{"fault": "not_verified"}]}
    PUT    /users/NAME      {"password": "…", "keep_old": true}
    DELETE /users/NAME
    POST   /drop-sessions
    DELETE /records

A mistake gets 400 and `{"error": …, "hint": …}`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from builder.errors import BuilderError
from builder.standin.behaviour import Behaviour, behaviour_from_json
from builder.standin.journal import NotSeenError
from builder.standin.provider import Provider
from builder.standin.server import LocalServer

_LONGEST_WAIT_SECONDS = 600.0


@dataclass(frozen=True)
class _Asked:
    """A request: the rest of its path, its query and its JSON body."""

    rest: str
    query: Mapping[str, str]
    body: Any


class Control(LocalServer):
    """The interface to one provider; the provider goes on when it stops."""

    title = "control interface"

    def __init__(self, provider: Provider, *, port: int = 0) -> None:
        super().__init__(port=port)
        self._provider = provider

    def _listen(self, address: str, port: int) -> _Server:
        return _Server((address, port), self._provider)

    @property
    def url(self) -> str:
        """The address of the interface."""
        return self.endpoint


def call(url: str, method: str, path: str, body: Any = None, *, timeout_seconds: float = 30) -> Any:
    """Ask a control interface; return its JSON answer. Errors: BuilderError with what it said."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url + path, method=method, data=data)  # noqa: S310 (loopback)
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_seconds) as answer:
            return json.load(answer)
    except HTTPError as error:
        with error:
            said = json.load(error)
        raise BuilderError(said["error"], hint=said["hint"]) from None
    except (URLError, TimeoutError) as error:
        raise BuilderError(f"The provider stand-in at {url} does not answer: {error}") from error


def _state(provider: Provider, _asked: _Asked) -> Any:
    return {
        "address": provider.address,
        "port": provider.port,
        "tls_port": provider.tls_port,
        "host_names": provider.host_names,
        "counts": asdict(provider.counts),
        "behaviours": [item.to_json() for item in provider.behaviours],
        "errors": [repr(error) for error in provider.errors],
    }


def _messages(provider: Provider, asked: _Asked) -> Any:
    return [item.to_json() for item in provider.messages[int(asked.query.get("since", 0)) :]]


def _refused_messages(provider: Provider, asked: _Asked) -> Any:
    return [item.to_json() for item in provider.refused_messages[int(asked.query.get("since", 0)) :]]


def _wait(provider: Provider, asked: _Asked) -> Any:
    seconds = min(float(asked.query.get("seconds", 30)), _LONGEST_WAIT_SECONDS)
    wanted = {name: int(value) for name, value in asked.query.items() if name != "seconds"}
    unknown = set(wanted) - set(asdict(provider.counts))
    if unknown or not wanted:
        raise BuilderError("`/wait` needs a counter", hint=f"One of: {', '.join(asdict(provider.counts))}")
    provider.wait_for(
        lambda: all(getattr(provider.counts, name) >= number for name, number in wanted.items()),
        timeout_seconds=seconds,
    )
    return asdict(provider.counts)


def _behave(provider: Provider, asked: _Asked) -> Any:
    provider.behave(*_behaviours(asked.body))
    return [item.to_json() for item in provider.behaviours]


def _clear(provider: Provider, _asked: _Asked) -> Any:
    provider.clear()
    return []


def _next_sessions(provider: Provider, asked: _Asked) -> Any:
    provider.next_sessions(int(_key(asked, "count")), *_behaviours(_key(asked, "behaviours")))
    return {}


def _next_messages(provider: Provider, asked: _Asked) -> Any:
    provider.next_messages(int(_key(asked, "count")), *_behaviours(_key(asked, "behaviours")))
    return {}


def _set_password(provider: Provider, asked: _Asked) -> Any:
    keep_old = bool(asked.body.get("keep_old")) if isinstance(asked.body, dict) else False
    provider.set_password(asked.rest, str(_key(asked, "password")), keep_old=keep_old)
    return {}


def _remove_user(provider: Provider, asked: _Asked) -> Any:
    provider.remove_user(asked.rest)
    return {}


def _forget(provider: Provider, _asked: _Asked) -> Any:
    provider.forget()
    return {}


_ROUTES: Mapping[tuple[str, str], Callable[[Provider, _Asked], Any]] = {
    ("GET", ""): _state,
    ("GET", "messages"): _messages,
    ("GET", "refused-messages"): _refused_messages,
    ("GET", "sessions"): lambda provider, _: [asdict(item) for item in provider.sessions],
    ("GET", "auths"): lambda provider, _: [asdict(item) for item in provider.auths],
    ("GET", "leaks"): lambda provider, _: [asdict(item) for item in provider.leaks],
    ("GET", "refusals"): lambda provider, _: [asdict(item) for item in provider.refusals],
    ("GET", "wait"): _wait,
    ("PUT", "behaviours"): _behave,
    ("DELETE", "behaviours"): _clear,
    ("POST", "next-sessions"): _next_sessions,
    ("POST", "next-messages"): _next_messages,
    ("PUT", "users"): _set_password,
    ("DELETE", "users"): _remove_user,
    ("POST", "drop-sessions"): lambda provider, _: {"dropped": provider.drop_sessions()},
    ("DELETE", "records"): _forget,
}


def _behaviours(raw: Any) -> list[Behaviour]:
    if not isinstance(raw, list) or not all(isinstance(item, dict) for item in raw):
        raise BuilderError('A list of behaviours is expected, as `[{"fault": "throttled"}]`')
    return [behaviour_from_json(item) for item in raw]


def _key(asked: _Asked, name: str) -> Any:
    if not isinstance(asked.body, dict) or name not in asked.body:
        raise BuilderError(f"The request needs a JSON object with `{name}`")
    return asked.body[name]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], provider: Provider) -> None:
        self.provider = provider
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._respond()

    do_PUT = do_POST = do_DELETE = do_GET

    def _respond(self) -> None:
        try:
            status, answer = 200, self._ask()
        except BuilderError as error:
            status = 408 if isinstance(error, NotSeenError) else 400
            answer = {"error": error.message, "hint": error.hint}
        except ValueError as error:
            status, answer = 400, {"error": f"Not understood: {error}", "hint": None}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _ask(self) -> Any:
        parts = urlsplit(self.path)
        name, _, rest = parts.path.lstrip("/").partition("/")
        route = _ROUTES.get((self.command, name))
        if route is None:
            known = ", ".join(f"{method} /{path}" for method, path in _ROUTES)
            raise BuilderError(f"There is no `{self.command} {parts.path}`", hint=f"There is: {known}")
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return route(self.server.provider, _Asked(unquote(rest), query, json.loads(raw or b"null")))

    def log_message(self, format: str, *args: Any) -> None:
        return

"""A stand-in for a provider's OAuth 2.0 token service: HTTPS, and a token for each grant that it knows.

    with TokenService(context) as tokens:
        tokens.grant("a refresh token or client secret", "the access token")
        tokens.port, tokens.requests

What is asked and answered: RFC 6749, sections 4.4, 5 and 6.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

from builder.standin.server import LocalServer

_SECONDS = 3600
# Where each grant has what it is proved with.
_PROOFS = {"refresh_token": "refresh_token", "client_credentials": "client_secret"}


class TokenService(LocalServer):
    """Answers every path; what it is sent is compared and not kept."""

    title = "token stand-in"

    def __init__(self, context: ssl.SSLContext, *, address: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(address=address, port=port)
        self._context = context
        self._lock = threading.Lock()
        self._tokens: dict[str, str] = {}
        self._statuses: list[int] = []

    def _listen(self, address: str, port: int) -> ThreadingHTTPServer:
        return _Server((address, port), self, self._context)

    def grant(self, proof: str, token: str) -> None:
        """Give this access token for a refresh token or client secret from now on."""
        with self._lock:
            self._tokens[proof] = token

    def revoke_all(self) -> None:
        """Know no grant any more: what is asked for next is an `invalid_grant`."""
        with self._lock:
            self._tokens.clear()

    @property
    def statuses(self) -> tuple[int, ...]:
        """The status of each answer so far."""
        with self._lock:
            return tuple(self._statuses)

    def answer(self, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Return status and JSON for a request; called by the server's threads."""
        grant = form.get("grant_type", "")
        with self._lock:
            token = self._tokens.get(form.get(_PROOFS.get(grant, ""), ""))
            status = 200 if token is not None else 400
            self._statuses.append(status)
        if token is None:
            return status, {"error": "invalid_grant" if grant in _PROOFS else "unsupported_grant_type"}
        return status, {"access_token": token, "token_type": "Bearer", "expires_in": _SECONDS}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], service: TokenService, context: ssl.SSLContext) -> None:
        super().__init__(address, _Handler)
        self.service = service
        # In the handler's thread, at the first read: one slow client must not hold up the others.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)


class _Handler(BaseHTTPRequestHandler):
    timeout = 15

    def do_POST(self) -> None:
        """Answer a request for a token."""
        length = min(int(self.headers.get("Content-Length") or 0), 65536)
        form = dict(parse_qsl(self.rfile.read(length).decode("ascii", "replace")))
        assert isinstance(self.server, _Server)  # noqa: S101
        status, found = self.server.service.answer(form)
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: `statuses` has what a test looks at."""

"""XOAUTH2: get an access token, which serves as the password, from the OAuth 2.0 grant in the secret."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Mapping, Tuple

from relay_agent import logs
from relay_agent.deadline import Deadline
from relay_agent.trouble import Trouble

_TIMEOUT_SECONDS = 15.0
_DEADLINE_SECONDS = 30.0
_HEADERS = {
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept": "application/json",
    "Connection": "close",
}
_LARGEST_ANSWER = 65536
_LEAST_SECONDS = 60.0
# RFC 6749, section 5.2: what no waiting mends.
_LASTING = {
    "invalid_grant",
    "invalid_client",
    "unauthorized_client",
    "invalid_scope",
    "unsupported_grant_type",
}


@dataclass(frozen=True)
class TokenRequest:
    """Where to ask and what to say; RFC 6749, sections 4.4 and 6."""

    url: str
    form: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class AccessToken:
    """A token that is good for `seconds` from now."""

    token: str = field(repr=False)
    seconds: float = 0.0


_Answer = Tuple[int, Mapping[str, Any]]


def exchange(request: TokenRequest, *, deadline_seconds: float = _DEADLINE_SECONDS) -> AccessToken:
    """Ask for an access token; each read may take `_TIMEOUT_SECONDS`, all of it `deadline_seconds`.

    Errors: Trouble `token-refused` (lasting), `token-temporary`, `token-unreachable`. A message holds the
    server's `error` word, never its description, which may repeat what was sent.
    """
    url = urllib.parse.urlsplit(request.url)
    host, ends_at = url.hostname or "", time.monotonic() + deadline_seconds
    try:
        status, found = _ask(url, request.form, ends_at)
    except (OSError, http.client.HTTPException) as error:
        is_late = time.monotonic() >= ends_at
        why = f"no whole answer within {deadline_seconds:.0f} s" if is_late else str(error)
        raise Trouble("token-unreachable", f"The token service {host} cannot be reached ({why})") from None
    if status != http.client.OK:
        raise _refused(host, status, found)
    token, seconds = found.get("access_token"), found.get("expires_in", 3600)
    if not isinstance(token, str) or not token:
        raise Trouble("token-temporary", f"The token service {host} gave no access token")
    logs.hide(token)
    return AccessToken(token, max(_LEAST_SECONDS, float(seconds)) if _is_number(seconds) else 3600.0)


def _ask(url: urllib.parse.SplitResult, form: Mapping[str, str], ends_at: float) -> _Answer:
    """Send the form and return status and document. Errors: OSError, HTTPException."""
    host, is_https = url.hostname or "", url.scheme == "https"
    kind = http.client.HTTPSConnection if is_https else http.client.HTTPConnection
    connection = kind(host, url.port)
    client = _connect(host, url.port or connection.default_port, ends_at)
    try:
        if is_https:
            # The handshake as a whole keeps to the socket's timeout.
            client = ssl.create_default_context().wrap_socket(client, server_hostname=host)
        client.settimeout(_TIMEOUT_SECONDS)
        connection.sock = client
        with Deadline(max(0.0, ends_at - time.monotonic()), lambda: client):
            body = urllib.parse.urlencode(dict(form))
            connection.request("POST", url.path or "/", body, _HEADERS)
            with connection.getresponse() as answer:
                status, found = answer.status, _parse(answer.read(_LARGEST_ANSWER))
    finally:
        connection.close()
        client.close()
    if time.monotonic() >= ends_at:
        # It may have been cut in the middle.
        raise TimeoutError
    return status, found


def _connect(host: str, port: int, ends_at: float) -> socket.socket:
    """Connect to one of the host's addresses; all of them together have until `ends_at`."""
    failed = OSError("it has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        client = socket.socket(family, kind, protocol)
        client.settimeout(max(0.01, min(_TIMEOUT_SECONDS, ends_at - time.monotonic())))
        try:
            client.connect(address)
        except OSError as error:
            client.close()
            failed = error
        else:
            return client
    raise failed


def _refused(host: str, status: int, found: Mapping[str, Any]) -> Trouble:
    word = str(found.get("error", ""))[:40]
    text = f"The token service {host} answered {status} {word}".rstrip()
    if word in _LASTING:
        hint = (
            "The refresh token or client secret has ended or was revoked: get a new one, `builder secret put`"
        )
        return Trouble("token-refused", text, hint=hint, lasting=True)
    return Trouble("token-temporary", text)


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_number(value: object) -> bool:
    return str(value).isdigit()

"""XOAUTH2: get an access token, which serves as the password, from the OAuth 2.0 grant in the secret."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Mapping

from relay_agent import logs
from relay_agent.trouble import Trouble

_TIMEOUT_SECONDS = 15.0
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


def exchange(request: TokenRequest) -> AccessToken:
    """Ask for an access token.

    Errors: Trouble `token-refused` (lasting), `token-temporary`, `token-unreachable`. A message holds the
    server's `error` word, never its description, which may repeat what was sent.
    """
    host = urllib.parse.urlsplit(request.url).hostname
    body = urllib.parse.urlencode(dict(request.form)).encode("ascii")
    asked = urllib.request.Request(request.url, data=body, method="POST")  # noqa: S310 - checked in settings
    try:
        context = ssl.create_default_context()
        with urllib.request.urlopen(asked, timeout=_TIMEOUT_SECONDS, context=context) as answer:  # noqa: S310
            found = _parse(answer.read(_LARGEST_ANSWER))
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(host, error.code, _parse(error.read(_LARGEST_ANSWER))) from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        raise Trouble("token-unreachable", f"The token service {host} cannot be reached ({why})") from None
    token, seconds = found.get("access_token"), found.get("expires_in", 3600)
    if not isinstance(token, str) or not token:
        raise Trouble("token-temporary", f"The token service {host} gave no access token")
    logs.hide(token)
    return AccessToken(token, max(_LEAST_SECONDS, float(seconds)) if _is_number(seconds) else 3600.0)


def _refused(host: str | None, status: int, found: Mapping[str, Any]) -> Trouble:
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
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_number(value: object) -> bool:
    return str(value).isdigit()

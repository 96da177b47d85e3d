"""From the secret's text to a user name and a password, by the shapes that the preset allows."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from typing import Any, Sequence
from urllib.parse import quote

from relay_agent import logs
from relay_agent.oauth import TokenRequest
from relay_agent.settings import Shape
from relay_agent.trouble import Trouble

_PLACE = re.compile(r"\{([A-Za-z0-9_]+)\}")
# A name that is longer or odder than this could be a secret that was stored as a key.
_SHOWABLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
# JSON can spell half a character, which no encoding carries.
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Credential:
    """What the provider is shown; `note` says what was mended, never a value.

    With `token` the password is only what an access token is asked with.
    """

    username: str
    password: str = field(repr=False)
    shape: str = ""
    note: str | None = None
    token: TokenRequest | None = None


def ses_smtp_v4(secret_access_key: str, region: str) -> str:
    """Derive the SES SMTP password of an IAM secret access key for one region.

    Source: https://docs.aws.amazon.com/ses/latest/dg/smtp-credentials.html (version 0x04).
    """
    key = ("AWS4" + secret_access_key).encode("utf-8")
    for part in ("11111111", region, "ses", "aws4_request", "SendRawEmail"):
        key = hmac.new(key, part.encode("utf-8"), hashlib.sha256).digest()
    return base64.b64encode(b"\x04" + key).decode("ascii")


def read(text: str, *, shapes: Sequence[Shape], secret: str, region: str | None) -> Credential:
    """Read a secret's text by the first shape whose fields are all there.

    `region` is the one that a derived password is for. Errors: Trouble `secret-shape`, which names the
    fields that were found and expected and never shows a value.
    """
    logs.hide(text)
    document = _document(text, shapes, secret)
    for shape in shapes:
        if all(name in document for name in shape.fields):
            break
    else:
        raise _wrong(secret, f"has {_found(document)}; expected {_expected(shapes)}")
    values, note = _values(document, shape, secret)
    password = _fill(shape.password, values)
    if shape.derive == "ses_smtp_v4":
        password = _derive(password, region, secret)
    username = _fill(shape.username, values)
    logs.hide_login(username, password)
    if ":" in username:
        # Postfix splits the map's `user:password` at the first colon.
        raise _wrong(secret, "has a user name with a colon in it, which Postfix cannot use")
    token = _token_request(shape, values, password)
    return Credential(username=username, password=password, shape=shape.name, note=note, token=token)


def _token_request(shape: Shape, values: dict[str, str], password: str) -> TokenRequest | None:
    if shape.grant is None or shape.token_url is None:
        return None
    # A value in the address, such as the tenant, must not lead elsewhere.
    quoted = {name: quote(value, safe="") for name, value in values.items()}
    form = {"grant_type": shape.grant, "client_id": values.get("client_id", "")}
    form["client_secret"] = values.get("client_secret", password)
    if shape.grant == "refresh_token":
        form["refresh_token"] = password
    if shape.scope:
        form["scope"] = shape.scope
    return TokenRequest(_fill(shape.token_url, quoted), form)


def _document(text: str, shapes: Sequence[Shape], secret: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _wrong(
            secret, f"is plain text and not a JSON object; expected one with {_expected(shapes)}"
        ) from None
    if not isinstance(document, dict):
        raise _wrong(secret, f"is JSON but not an object; expected one with {_expected(shapes)}")
    return document


def _values(document: dict[str, Any], shape: Shape, secret: str) -> tuple[dict[str, str], str | None]:
    values: dict[str, str] = {}
    mended = []
    for name in shape.fields:
        value = document[name]
        if not isinstance(value, str):
            raise _wrong(secret, f"has a {type(value).__name__} in `{name}`; expected text")
        kept = value.rstrip("\r\n")
        if kept != value:
            # `echo` and editors add it; no provider's password ends in one.
            mended.append(name)
        logs.hide(kept)
        _check(kept, name, secret)
        values[name] = kept
    note = f"a line break at the end of `{'`, `'.join(mended)}` was left out" if mended else None
    return values, note


def _check(value: str, name: str, secret: str) -> None:
    """Refuse what the map's line format cannot carry unchanged."""
    if not value:
        raise _wrong(secret, f"has nothing in `{name}`")
    if _CONTROL.search(value):
        raise _wrong(secret, f"has a line break or control character inside `{name}`")
    if _HALF.search(value):
        raise _wrong(secret, f"has half a character (a lone surrogate) in `{name}`")
    if value != value.strip():
        raise _wrong(secret, f"has a blank at the start or end of `{name}`")


def _derive(secret_access_key: str, region: str | None, secret: str) -> str:
    if region is None:
        raise Trouble(
            "region-missing",
            f"Secret `{secret}` holds an IAM access key, and its upstream has no `region` to derive for",
            hint="Set `region` in relay.yaml and bake again",
            lasting=True,
        )
    return ses_smtp_v4(secret_access_key, region)


def _fill(template: str, values: dict[str, str]) -> str:
    # Not str.format: a template must not reach into attributes, and values may hold braces.
    return _PLACE.sub(lambda match: values.get(match.group(1), match.group(0)), template)


def _wrong(secret: str, what: str) -> Trouble:
    return Trouble(
        "secret-shape",
        f"Secret `{secret}` {what}",
        hint=f"Store it again: `builder secret put {secret}`; `builder presets` shows the fields",
        lasting=True,
    )


def _found(document: dict[str, Any]) -> str:
    if not document:
        return "no fields"
    names = sorted(str(name) for name in document)
    shown = [f"`{name}`" if _SHOWABLE.fullmatch(name) else "a name not shown here" for name in names[:8]]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"the fields {', '.join(shown)}{more}" if len(shown) > 1 else f"the field {shown[0]}"


def _expected(shapes: Sequence[Shape]) -> str:
    return " or ".join(
        ", ".join(f"`{name}`" for name in shape.fields) + f" ({shape.name})" for shape in shapes
    )

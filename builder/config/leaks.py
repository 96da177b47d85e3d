"""Find secrets that were put into `relay.yaml` by mistake, and name their kind without repeating them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

Where = tuple[str | int, ...]

_SECRET_KEY = re.compile(
    r"(.*_)?(password|passwd|passphrase|pass|pwd|api_?key|smtp_key|secret_?key|secret_access_key|private_key"
    r"|access_key(_id)?|client_secret|token|credentials?)"
)
_KINDS: tuple[tuple[str, str], ...] = (
    ("a private key in PEM", r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    ("an AWS access key ID", r"(?<![A-Za-z0-9])(AKIA|ASIA)[A-Z0-9]{12,}"),
    ("a SendGrid API key", r"(?<![A-Za-z0-9])SG\.[A-Za-z0-9_-]{8,}"),
    ("a Brevo key", r"x(smtpsib|keysib)-[A-Za-z0-9]{8,}"),
    ("a Mailgun key", r"(?<![A-Za-z0-9])key-[A-Za-z0-9]{20,}|(?<![0-9a-f])[0-9a-f]{32}-[0-9a-f]{8}-"),
    ("a Resend API key", r"(?<![A-Za-z0-9])re_[A-Za-z0-9]{8,}_?[A-Za-z0-9]{8,}"),
    ("a Google app password", r"^(.*:)?\s*(?=.*\b[b-df-hj-np-tv-xz]{4}\b)[a-z]{4}( [a-z]{4}){3}\s*$"),
    ("a Google OAuth credential", r"GOCSPX-[\w-]{10,}|ya29\.[\w-]{10,}|1//0[\w-]{20,}"),
    ("a Microsoft client secret", r"[\w~.-]{3}[0-9]Q~[\w~.-]{20,}"),
    ("a web token (JWT)", r"eyJ[\w-]{8,}\.[\w-]{8,}"),
    ("a token such as Postmark's", r"(?i)(?<![0-9a-f])[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}(?![0-9a-f])"),
    ("a key in hexadecimal", r"(?<![A-Za-z0-9])([0-9a-f]{32,}|[0-9A-F]{32,})(?![A-Za-z0-9])"),
    ("an address with a password in it", r"[a-z][a-z0-9+]*://[^/\s:@]*:[^/\s@]+@"),
)
# Public, and as random as a key. In a file between double quotes a line of it ends in a backslash.
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s\\]+-----END CERTIFICATE-----")
_TOKEN = re.compile(r"[A-Za-z0-9+/=_~-]{16,}")


class Leak(NamedTuple):
    """Where a secret stands and what it looks like; never the secret."""

    where: Where
    kind: str
    in_key: bool = False
    """The key itself is the secret, so it must not be shown."""


def find_leaks(data: Any, where: Where = ()) -> Iterator[Leak]:
    """Give every place in plain data (of YAML or flags) that holds a secret."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _in_entry(str(key), value, (*where, str(key)))
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            yield from find_leaks(value, (*where, index))
    elif isinstance(data, str):
        kind = kind_of_secret(_CERTIFICATE.sub("", data))
        if kind:
            yield Leak(where, kind)


def find_leaks_in_lines(text: str) -> Iterator[Leak]:
    """Give every line of a file that holds a secret anywhere, in a comment for instance."""
    without = _CERTIFICATE.sub(lambda found: "\n" * found.group().count("\n"), text)
    for number, line in enumerate(without.splitlines(), start=1):
        kind = kind_of_secret(line)
        if kind:
            yield Leak((f"line {number}",), kind)


def _in_entry(key: str, value: Any, where: Where) -> Iterator[Leak]:
    kind = kind_of_secret(key)
    if kind:
        yield Leak(where, kind, in_key=True)
    elif _SECRET_KEY.fullmatch(key.lower().replace("-", "_")) and value not in (None, "", [], {}):
        yield Leak(where, "a credential, by its name")
    else:
        yield from find_leaks(value, where)


def kind_of_secret(text: str) -> str | None:
    """Say what kind of secret a text looks like; None when it does not look like one."""
    for kind, pattern in _KINDS:
        if re.search(pattern, text):
            return kind
    for token in _TOKEN.findall(text):
        if _is_random(token):
            if len(token) == 40:
                return "an AWS secret access key"
            return (
                "an SMTP password of SES" if len(token) == 44 else "a random string such as a key or password"
            )
    return None


def _is_random(token: str) -> bool:
    """Whether letters, digits and capitals change as often as in a key, rather than as in words.

    In random base64 two of three neighbours are of different classes, in words joined by hyphens or
    capitals one of three; in small letters with digits it is two of five.
    """
    classes = [_class(character) for character in token]
    changes = sum(first != second for first, second in zip(classes, classes[1:], strict=False)) / (
        len(token) - 1
    )
    digits = classes.count("digit")
    if {"small", "capital", "digit"} <= set(classes):
        # 40 is the length of AWS' keys, whose published example has a word in it.
        return changes >= (0.38 if len(token) == 40 else 0.42)
    if {"small", "capital"} <= set(classes):
        return changes >= 0.45 and len(token) >= 24
    return digits >= 5 and changes >= 0.33 and len(token) >= 20 and "-" not in token


def _class(character: str) -> str:
    if character.isdigit():
        return "digit"
    if character.isalpha():
        return "small" if character.islower() else "capital"
    return "other"

"""What the secrets of a relay hold: a provider's credential, users of the submission port, a key for DKIM."""

from __future__ import annotations

import abc
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from builder.config import ProviderChoice, RelayConfig
from builder.config.values import HALF_CHARACTER
from builder.errors import ConfigError
from builder.presets import SecretShape

# The agent in the relay takes the same: relay_agent/credential.py, submission.py and dkim.py.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
# A name that is longer or odder than this could be a secret that was stored as a key.
_SHOWABLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_SHORTEST_PASSWORD = 8
# RFC 8301, 3.2: verifiers do not take fewer.
_LEAST_BITS = 1024


class Kind(abc.ABC):
    """One secret of a configuration; no error of it repeats anything of the secret.

    `name` is the secret's in Secrets Manager; `what` says in a sentence what it holds, `hint` what to do
    about one that will not do.
    """

    def __init__(self, name: str, *, what: str, hint: str) -> None:
        self.name, self.what, self.hint = name, what, hint

    def parse(self, text: str, *, source: str) -> dict[str, Any]:
        """Read the JSON object of a secret. Errors: ConfigError."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError):
            raw = None
        if not isinstance(raw, dict):
            raise ConfigError(source, ["this is not a JSON object"], hint=self.hint)
        return raw

    @abc.abstractmethod
    def shape_of(self, document: Mapping[str, Any], *, source: str) -> str:
        """Return the name of the shape that a secret has. Errors: ConfigError for one that has none."""

    def fields_of(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of what is in a secret."""
        return tuple(document)


class Credential(Kind):
    """A provider's credential: text in the fields of one of the preset's shapes."""

    def __init__(self, choice: ProviderChoice) -> None:
        hint = f"`builder presets {choice.preset}` shows the fields"
        super().__init__(choice.secret_name, what="a provider's credential", hint=hint)
        self.choice = choice

    def shape_of(self, document: Mapping[str, Any], *, source: str) -> str:
        """Return the name of the shape that a secret has. Errors: ConfigError for one that has none."""
        return self.read(document, source=source)[0].name

    def read(self, document: Mapping[str, Any], *, source: str) -> tuple[SecretShape, dict[str, str]]:
        """Return a secret's shape and the values of its fields, by the rules of the agent.

        It is the first shape whose fields are all there, whatever is in them. Errors: ConfigError with every
        field that will not do.
        """
        shape = _first_shape(self.choice.secret_shapes, document)
        if shape is None:
            raise ConfigError(source, [self._unlike(document)], hint=self._hint(document))
        # A line break that `echo` or an editor has put at the end is left out there too.
        values = {name: _without_line_end(document[name]) for name in shape.fields}
        problems = [f"`{name}` {wrong}" for name, value in values.items() if (wrong := _unfit(value))]
        if not problems and ":" in shape.username.format_map(values):
            problems = ["the user name has a colon in it, at which Postfix would end it"]
        if problems:
            raise ConfigError(source, problems, hint=self.hint)
        return shape, values

    def _unlike(self, document: Mapping[str, Any]) -> str:
        shapes = [", ".join(f'"{field}"' for field in shape.fields) for shape in self.choice.secret_shapes]
        names = (f"`{name}`" if _SHOWABLE.fullmatch(name) else "one not shown here" for name in document)
        wanted = " or ".join(f"{{{fields}}}" for fields in shapes)
        return f"the fields are {', '.join(names) or 'none'}, expected {wanted}"

    def _hint(self, document: Mapping[str, Any]) -> str:
        other = _first_shape(self.choice.provider.secret_shapes, document)
        if other is None:
            return self.hint
        return f"This is for another way to log in: set `auth: {other.mechanism}` in relay.yaml"


class SubmissionUsers(Kind):
    """Users of the submission port with their passwords, and its certificate where relay.yaml says so."""

    def __init__(self, name: str, *, has_certificate: bool) -> None:
        more = ', "certificate": "PEM", "private_key": "PEM"' if has_certificate else ""
        hint = f"""Give it as `{{"users": {{"app": "its password"}}{more}}}` with `--file` or on stdin"""
        super().__init__(name, what="the users of the submission port", hint=hint)
        self.has_certificate = has_certificate

    def shape_of(self, document: Mapping[str, Any], *, source: str) -> str:
        """Return the name of the shape that a secret has. Errors: ConfigError for one that has none."""
        problems = [*_user_problems(document.get("users"))]
        if self.has_certificate:
            problems += _certificate_problems(document)
        if problems:
            raise ConfigError(source, problems, hint=self.hint)
        return "submission_users"

    def fields_of(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of what is in a secret, each user among them."""
        users = tuple(f"users.{name}" for name in document["users"])
        return (*users, *(field for field in document if field != "users"))


class DkimKey(Kind):
    """The private key of one or more domains, as JSON or as the PEM text that `openssl genrsa` prints."""

    def __init__(self, name: str) -> None:
        # The key touches no disk on its way.
        hint = f"Make one with `openssl genrsa 2048 | builder secret put {name}`"
        super().__init__(name, what="a DKIM key", hint=hint)

    def parse(self, text: str, *, source: str) -> dict[str, Any]:
        """Read the JSON object of a secret, or make it of a key in PEM. Errors: ConfigError."""
        if text.lstrip().startswith("-----BEGIN"):
            return {"private_key": text.strip() + "\n"}
        return super().parse(text, source=source)

    def shape_of(self, document: Mapping[str, Any], *, source: str) -> str:
        """Return the name of the shape that a secret has. Errors: ConfigError for one that has none."""
        key = _load_key(document.get("private_key"))
        if not isinstance(key, rsa.RSAPrivateKey):
            text = "`private_key` is not an RSA key in PEM without a passphrase, which OpenDKIM signs with"
            raise ConfigError(source, [text], hint=self.hint)
        if key.key_size < _LEAST_BITS:
            text = f"`private_key` has {key.key_size} bits; verifiers take {_LEAST_BITS} or more (RFC 8301)"
            raise ConfigError(source, [text], hint=self.hint)
        return "dkim_key"


def kinds_of(config: RelayConfig) -> Iterator[Kind]:
    """Give every secret that a configuration names, the primary provider's first."""
    for _role, choice in config.upstreams():
        yield Credential(choice)
    if config.submission:
        has_certificate = config.submission.certificate == "secret"
        yield SubmissionUsers(config.submission.secret, has_certificate=has_certificate)
    if config.dkim:
        for name in dict.fromkeys(key.secret for key in config.dkim.keys):
            yield DkimKey(name)


def _first_shape(shapes: Iterable[SecretShape], document: Mapping[str, Any]) -> SecretShape | None:
    return next((shape for shape in shapes if all(name in document for name in shape.fields)), None)


def _without_line_end(value: Any) -> Any:
    return value.rstrip("\r\n") if isinstance(value, str) else value


def _unfit(value: Any) -> str | None:
    """Say why Postfix's password map cannot carry a value; None when it can."""
    if not isinstance(value, str):
        return "is not text"
    if not value:
        return "is empty"
    if _CONTROL.search(value):
        return "has a line break or control character inside"
    if HALF_CHARACTER.search(value):
        return "has half a character (a lone surrogate) in it"
    return "has a blank at the start or end" if value != value.strip() else None


def _user_problems(users: object) -> Iterator[str]:
    if not isinstance(users, dict) or not users:
        yield "`users` is not an object of names and passwords"
        return
    for name, password in users.items():
        if not _USER.fullmatch(name):
            yield f"user name `{name[:40]}` is not made of letters, digits and `._@+-` (64 at most)"
        if not isinstance(password, str) or len(password) < _SHORTEST_PASSWORD or not password.isprintable():
            yield f"the password of `{name[:40]}` does not have {_SHORTEST_PASSWORD} printable characters"


def _certificate_problems(document: Mapping[str, Any]) -> Iterator[str]:
    key = _load_key(document.get("private_key"))
    if key is None:
        yield "`private_key` is not a key in PEM without a passphrase"
    chain = document.get("certificate")
    try:
        first = x509.load_pem_x509_certificates(str(chain).encode())[0]
    except ValueError:
        yield "`certificate` is not a certificate in PEM"
        return
    if key is not None and _public(key.public_key()) != _public(first.public_key()):
        yield "the first certificate of `certificate` is not that of `private_key`"
    if first.not_valid_after_utc < datetime.now(UTC):
        yield f"`certificate` has expired on {first.not_valid_after_utc:%Y-%m-%d}"


def _load_key(pem: object) -> Any:
    """Return a private key, or None for what is none that a program could use by itself."""
    try:
        return serialization.load_pem_private_key(str(pem).encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _public(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.DER, form))

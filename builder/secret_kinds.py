"""What the secrets of a relay hold: a provider's credential, users of the submission port, a key for DKIM."""

from __future__ import annotations

import abc
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from builder.config import ProviderChoice, RelayConfig
from builder.errors import ConfigError
from builder.presets import SecretShape

# The agent in the relay takes the same: relay_agent/submission.py and dkim.py.
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
            raw = json.loads(text.removeprefix("\ufeff"))  # Windows writes a byte order mark
        except ValueError:
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

    def parse(self, text: str, *, source: str) -> dict[str, str]:
        """Read the JSON object of a secret. Errors: ConfigError."""
        document = super().parse(text, source=source)
        if not all(isinstance(value, str) for value in document.values()):
            raise ConfigError(source, ["this is not a JSON object whose values are text"], hint=self.hint)
        return document

    def shape_of(self, document: Mapping[str, Any], *, source: str) -> str:
        """Return the name of the shape that a secret has. Errors: ConfigError for one that has none."""
        return find_shape(self.choice.provider.secret_shapes, document, source=source).name


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


def find_shape(shapes: Sequence[SecretShape], secret: Mapping[str, Any], *, source: str) -> SecretShape:
    """Return the first shape whose fields the secret has, as the agent does.

    Errors: ConfigError with the fields of each shape and those that are there; no value is repeated.
    """
    for shape in shapes:
        if all(secret.get(field) for field in shape.fields):
            return shape
    wanted = " or ".join("{" + ", ".join(f'"{field}"' for field in shape.fields) + "}" for shape in shapes)
    there = ", ".join(f"`{field}`" for field in secret) or "none"
    raise ConfigError(source, [f"the fields are {there}, expected {wanted}"])


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

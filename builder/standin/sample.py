"""A credential for tests and demonstrations: what goes into the secret, and what the provider then sees."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from builder.presets import SecretShape

_USER = "AKIASTANDINPROBE4ME7"


@dataclass(frozen=True)
class Grant:
    """An OAuth 2.0 grant: the host of the token service, and the refresh token or client secret."""

    host: str
    proof: str = field(repr=False)


@dataclass(frozen=True)
class SampleCredential:
    """A random credential in one of the shapes that a preset accepts."""

    secret: Mapping[str, str] = field(repr=False)
    """The JSON object for Secrets Manager."""
    username: str
    password: str = field(repr=False)
    """As the provider gets it: for Amazon SES derived from the key, for OAuth the access token."""
    grant: Grant | None = None
    """OAuth: what is asked for the token, and with what."""

    @property
    def traces(self) -> dict[str, bytes]:
        """Name → bytes that give the password away wherever they are found."""
        form = "\0{0}\0{1}" if self.grant is None else "user={0}\1auth=Bearer {1}\1\1"
        response = base64.b64encode(form.format(self.username, self.password).encode())
        found = {"the password": self.password.encode(), "the AUTH response": response}
        for name, value in self.secret.items():
            if value not in (self.username, self.password):
                found[f"`{name}` of the secret"] = value.encode()
        return found


def sample_credential(
    shapes: Sequence[SecretShape],
    region: str | None,
    *,
    username: str = _USER,
    secret: Mapping[str, Any] | None = None,
) -> SampleCredential:
    """Return a random credential in the first of the shapes; the same user each time.

    `secret` is what the secret holds already, when another provider has it in common and its shape fits.
    """
    shape = shapes[0]
    if secret is None or not set(shape.fields) <= set(secret):
        secret = _fill(shape, username)
    name = shape.username.format_map(secret)
    password = shape.password.format_map(secret)
    if shape.derive == "ses_smtp_v4":
        password = derive_ses_password(password, region or "us-east-1")
    grant = None
    if shape.token_url is not None:
        grant = Grant(host=urlsplit(shape.token_url.format_map(secret)).hostname or "", proof=password)
        password = f"Canary{secrets.token_hex(17)}"
    return SampleCredential(secret=secret, username=name, password=password, grant=grant)


def derive_ses_password(secret_access_key: str, region: str) -> str:
    """Return the SMTP password of an IAM secret access key, version 4.

    Source: Amazon SES developer guide, "Obtaining SMTP credentials by converting existing AWS credentials".
    """
    signature = f"AWS4{secret_access_key}".encode()
    for part in ("11111111", region, "ses", "aws4_request", "SendRawEmail"):
        signature = hmac.new(signature, part.encode(), hashlib.sha256).digest()
    return base64.b64encode(b"\x04" + signature).decode()


def _fill(shape: SecretShape, username: str) -> dict[str, str]:
    # Letters and digits only: a password with a space is another test.
    values = {name: f"Canary{secrets.token_hex(17)}" for name in shape.fields}
    for name in shape.fields:
        if f"{{{name}}}" in shape.username and f"{{{name}}}" not in shape.password:
            values[name] = username
    return values

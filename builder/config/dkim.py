"""DKIM: which domains the relay signs for, with keys from secrets, and what happens when it cannot sign."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from builder.config.values import Domain, SecretName
from builder.presets import Model


def _selector(value: str) -> str:
    # RFC 6376, 3.1: labels of a name in DNS, under `_domainkey`.
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value) or ".." in value:
        raise ValueError("expected a DKIM selector such as `relay2026`")
    return value


class DkimKey(Model):
    """Sign mail whose From is in a domain or below it. The private key is in a secret, never in the image."""

    domain: Domain
    selector: Annotated[str, AfterValidator(_selector)]
    """The public key stands in DNS at `SELECTOR._domainkey.DOMAIN`."""
    secret: SecretName
    """Holds `{"private_key": "PEM"}`, an RSA key of 1024 bits or more; may be shared by several domains."""


class Dkim(Model):
    """Signing with DKIM; mail from other domains is relayed without a signature."""

    keys: tuple[DkimKey, ...] = Field(min_length=1)
    signer_down: Literal["defer", "send_unsigned"] = "defer"
    """`defer`: nothing is accepted while mail cannot be signed, clients get 451 and try again."""

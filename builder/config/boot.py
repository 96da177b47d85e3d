"""What one instance is told at launch: the content of `/etc/relay/boot.json`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from builder.config.routing import arn_region, is_aws_region
from builder.config.values import (
    Endpoint,
    FleetSize,
    HostName,
    Network,
    SecretName,
    Whole,
    is_too_wide,
)
from builder.presets import Model


def _certificates_only(value: str) -> str:
    if "PRIVATE KEY" in value or not re.match(r"\s*-----BEGIN CERTIFICATE-----", value):
        raise ValueError("expected certificates in PEM (`-----BEGIN CERTIFICATE-----`), without a key")
    return value


def _aws_region(value: str) -> str:
    if not is_aws_region(value):
        raise ValueError("expected an AWS region such as `us-east-1`")
    return value


class BootUpstream(Model):
    """A private endpoint or a stand-in in the provider's place."""

    port: Whole | None = Field(default=None, ge=1, le=65535)
    ca_pem: Annotated[str, AfterValidator(_certificates_only)] | None = None
    """Certificate authority to trust for the upstream, PEM, in place of the system's."""


class BootConfig(Model):
    """What one instance is told at launch; becomes `/etc/relay/boot.json`. Holds no credential."""

    schema_version: int = Field(default=1, alias="schema")
    secret: SecretName | None = None
    region: Annotated[str, AfterValidator(_aws_region)] | None = None
    """AWS region of Secrets Manager, in place of the one baked in."""
    hostname: HostName | None = None
    networks: tuple[Network, ...] | None = None
    allow_any_network: bool = False
    """Needed for public networks wider than a /16 (IPv6: /32), which the agent refuses without it."""
    endpoint: Endpoint | None = None
    """Secrets Manager endpoint, e.g. of a VPC endpoint or a local stand-in."""
    imds_endpoint: Endpoint | None = None
    """In place of http://169.254.169.254, for a guest that is not on EC2."""
    upstream: BootUpstream | None = None
    fleet_size: FleetSize | None = None
    """In place of `quota.fleet_size` of relay.yaml: how many relays share the account's rate."""

    @model_validator(mode="after")
    def _is_no_open_relay(self) -> BootConfig:
        wide = [] if self.allow_any_network else [name for name in self.networks or () if is_too_wide(name)]
        if wide:
            raise ValueError(f"`networks` has `{wide[0]}`, which would let strangers relay")
        return self

    @model_validator(mode="after")
    def _has_one_region(self) -> BootConfig:
        region = arn_region(self.secret)
        if self.region and region and region != self.region:
            raise ValueError(f"`region` is `{self.region}`, but `secret` is in `{region}`, as its ARN says")
        return self

    def to_json_dict(self) -> dict[str, Any]:
        """Return the content of boot.json: only the keys that are set."""
        without = set() if self.allow_any_network else {"allow_any_network"}
        return self.model_dump(by_alias=True, exclude_none=True, exclude=without, mode="json")

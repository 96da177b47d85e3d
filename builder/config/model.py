"""The frozen models behind `relay.yaml`, and behind what an instance is told when it boots."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from builder.presets import Model, Preset, load_preset

_HOST_NAME = re.compile(
    r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+"
)


def _host_name(value: str) -> str:
    if not _HOST_NAME.fullmatch(value.lower()):
        raise ValueError(f"`{value}` is not a fully qualified host name such as `relay.example.com`")
    return value.lower()


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise ValueError(f"`{value}` is not a network such as `10.0.0.0/8`: {error}") from None


def _secret_name(value: str) -> str:
    # https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html, Name; or an ARN.
    if not re.fullmatch(r"[A-Za-z0-9/_+=.@:-]{1,512}", value):
        raise ValueError("not the name of a secret: letters, digits and /_+=.@- only, 512 at most")
    return value


HostName = Annotated[str, AfterValidator(_host_name)]
Network = Annotated[str, AfterValidator(_network)]
SecretName = Annotated[str, AfterValidator(_secret_name)]


class UpstreamOverride(Model):
    """Where it differs from the preset: the port, or for preset `custom` also the host."""

    host: HostName | None = None
    port: int | None = Field(default=None, ge=1, le=65535)


class DeliveryOverride(Model):
    """What replaces the preset's choice; see `Delivery` in presets.py."""

    concurrency: int | None = Field(default=None, ge=1, le=500)
    initial_concurrency: int | None = Field(default=None, ge=1, le=500)
    messages_per_connection: int | None = Field(default=None, ge=1)
    queue_lifetime_hours: int | None = Field(default=None, ge=1, le=24 * 30)


class RelayConfig(Model):
    """Everything that decides what is baked. Never holds a credential, only the name of the secret."""

    preset: str
    region: str | None = None
    hostname: HostName = "relay.internal"
    """`myhostname`; an instance may be given its own at boot."""
    domain: HostName | None = None
    """`myorigin`: appended to senders without a domain; the host name's parent when not set."""
    networks: tuple[Network, ...] = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    """`mynetworks`: who may relay without logging in, beside the machine itself."""
    allow_any_network: bool = False
    secret: SecretName | None = None
    """Name or ARN in Secrets Manager; `relay/<preset>` when not set."""
    upstream: UpstreamOverride = UpstreamOverride()
    delivery: DeliveryOverride = DeliveryOverride()
    message_bytes: int | None = Field(default=None, ge=1024)
    """`message_size_limit`; the preset's limit when not set."""
    main_cf: dict[str, str] = Field(default_factory=dict)
    """Further main.cf parameters, for what builder has no key for."""
    packages: tuple[str, ...] = ()
    """Further packages to install in the image."""

    @property
    def provider(self) -> Preset:
        """The preset's data."""
        return load_preset(self.preset)

    @property
    def upstream_host(self) -> str:
        """The provider's host name, without brackets."""
        return self.upstream.host or self.provider.host(self.region)

    @property
    def upstream_port(self) -> int:
        """The provider's port."""
        return self.upstream.port or self.provider.default_port

    @property
    def secret_name(self) -> str:
        """The name of the secret that holds the credential."""
        return self.secret or f"relay/{self.preset}"


class BootUpstream(Model):
    """A private endpoint or a stand-in in the provider's place."""

    port: int | None = Field(default=None, ge=1, le=65535)
    ca_pem: str | None = None
    """Certificate authority to trust for the upstream, PEM, in place of the system's."""


class BootConfig(Model):
    """What one instance is told at launch; becomes `/etc/relay/boot.json`. Holds no credential."""

    schema_version: int = Field(default=1, alias="schema")
    secret: SecretName | None = None
    region: str | None = None
    hostname: HostName | None = None
    networks: tuple[Network, ...] | None = None
    endpoint: str | None = None
    """Secrets Manager endpoint, e.g. of a VPC endpoint or a local stand-in."""
    imds_endpoint: str | None = None
    """In place of http://169.254.169.254, for a guest that is not on EC2."""
    upstream: BootUpstream | None = None

    def to_json_dict(self) -> dict[str, Any]:
        """Return the content of boot.json: only the keys that are set."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")

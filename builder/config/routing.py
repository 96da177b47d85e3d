"""Where mail goes: the provider, a fallback, routes by domain, a warm-up, and how fast."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from builder.config.values import AWS_REGION, Domain, FleetSize, HostName, Number, SecretName, Whole
from builder.presets import Model, Preset, SecretShape, TlsMode, load_preset

AuthKind = Literal["password", "xoauth2"]
_AWS_REGION = re.compile(AWS_REGION)
_ARN_REGION = re.compile(rf"arn:aws[a-z-]*:secretsmanager:(?P<region>{AWS_REGION}):")


def is_aws_region(name: str) -> bool:
    """Whether a name has the form of an AWS region, such as `us-gov-east-1`."""
    return _AWS_REGION.fullmatch(name) is not None


def arn_region(secret: str | None) -> str | None:
    """Return the region in a secret's ARN, where alone it is; None for one that has but a name."""
    found = _ARN_REGION.match(secret or "")
    return found["region"] if found else None


class UpstreamOverride(Model):
    """Where the provider's service differs from the preset."""

    host: HostName | None = None
    """For preset `custom`, or another name of the same service (a VPC endpoint of SES)."""
    port: Whole | None = Field(default=None, ge=1, le=65535)
    tls: TlsMode | None = None
    """How TLS begins, for preset `custom` on a port that is neither 587 nor 465."""


class ProviderChoice(Model):
    """A provider with a credential of its own."""

    preset: str
    region: str | None = None
    """The provider's region, where its host depends on one."""
    secret: SecretName | None = None
    """Name or ARN in Secrets Manager; `relay/<preset>` when not set."""
    auth: AuthKind | None = None
    """How to log in; when not set, as the preset's first kind of secret says."""
    upstream: UpstreamOverride = UpstreamOverride()

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
    def upstream_tls(self) -> TlsMode:
        """How TLS begins on that port."""
        return self.upstream.tls or self.provider.tls_mode(self.upstream_port)

    @property
    def secret_name(self) -> str:
        """The name of the secret that holds the credential."""
        return self.secret or f"relay/{self.preset}"

    @property
    def auth_kind(self) -> AuthKind:
        """How to log in."""
        return self.auth or self.provider.secret_shapes[0].mechanism

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The SASL mechanisms for this way of logging in, for smtp_sasl_mechanism_filter."""
        wants_token = self.auth_kind == "xoauth2"
        return tuple(name for name in self.provider.mechanism_names if (name == "xoauth2") == wants_token)

    @property
    def secret_shapes(self) -> tuple[SecretShape, ...]:
        """What the secret may hold, for this way of logging in."""
        return tuple(shape for shape in self.provider.secret_shapes if shape.mechanism == self.auth_kind)


class DeliveryOverride(Model):
    """What replaces the preset's choice; see `Delivery` in presets.py."""

    concurrency: Whole | None = Field(default=None, ge=1, le=500)
    """Sessions to the provider at once."""
    initial_concurrency: Whole | None = Field(default=None, ge=1, le=500)
    messages_per_connection: Whole | None = Field(default=None, ge=1)
    recipients_per_delivery: Whole | None = Field(default=None, ge=1, le=10000)
    """Recipients of one message in one transaction; more are sent in several."""
    queue_lifetime_hours: Whole | None = Field(default=None, ge=1, le=24 * 30)


def _route_name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", value) or value in ("primary", "fallback", "warm-up"):
        raise ValueError(
            "expected a name of small letters, digits and hyphens, 31 at most, "
            "other than `primary`, `fallback` and `warm-up`"
        )
    return value


class Route(ProviderChoice):
    """Mail of some senders, or to some recipients, through another provider or account.

    Either `sender_domains` (of the envelope sender) or `recipient_domains`; a route by recipient wins over
    one by sender, as in Postfix. A domain means itself and its subdomains; of two that hold an address the
    one further down counts, in whatever order they are.
    """

    name: Annotated[str, AfterValidator(_route_name)]
    sender_domains: tuple[Domain, ...] = ()
    recipient_domains: tuple[Domain, ...] = ()


class WarmUpStep(Model):
    """From this day on, this part of the mail."""

    date: dt.date
    percent: Whole = Field(ge=0, le=100)


class WarmUp(ProviderChoice):
    """A provider that gets a part of the mail, growing by date, or fixed with `percent`."""

    percent: Whole | None = Field(default=None, ge=1, le=99)
    steps: tuple[WarmUpStep, ...] = ()

    def percent_on(self, day: dt.date) -> int:
        """Return the part of the mail for this provider on a day, 0 before the first step."""
        if self.percent is not None:
            return self.percent
        reached = [step for step in self.steps if step.date <= day]
        return max(reached, key=lambda step: step.date).percent if reached else 0


class Quota(Model):
    """How fast the account may send; below that nothing is slowed."""

    messages_per_second: Number | None = Field(default=None, ge=0.001, le=100_000)
    """0.001 is a message in a quarter of an hour."""
    source: Literal["ses_get_send_quota", "preset", "config"] | None = None
    """`config` when `messages_per_second` is set, else `preset`. SES can be asked: `ses_get_send_quota`."""
    share: Literal["fleet", "node"] = "fleet"
    """`fleet`: divided by the relays in service; `node`: each relay has it for itself."""
    fleet_size: FleetSize | None = None
    """How many relays share it, or `auto_scaling`: count the instance's Auto Scaling group.

    When not set, the group is counted where there is one, and outside of any a relay is alone. A launch may
    say something else.
    """

    @property
    def rate_source(self) -> Literal["ses_get_send_quota", "preset", "config"]:
        """Where the rate comes from."""
        return self.source or ("config" if self.messages_per_second is not None else "preset")

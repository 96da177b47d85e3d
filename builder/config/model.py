"""The frozen model behind `relay.yaml`: everything that decides what is baked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from builder.config.boot import BootConfig, BootUpstream
from builder.config.checks import check
from builder.config.dkim import Dkim
from builder.config.hygiene import Dsn, Hygiene
from builder.config.main_cf import as_text
from builder.config.policy import Access, ClientLimits, Firewall, Submission
from builder.config.routing import (
    DeliveryOverride,
    ProviderChoice,
    Quota,
    Route,
    UpstreamOverride,
    WarmUp,
    arn_region,
    is_aws_region,
)
from builder.config.values import Domain, HostName, Network, PackageName, Whole
from builder.presets import Delivery

__all__ = ["BootConfig", "BootUpstream", "DeliveryOverride", "RelayConfig", "UpstreamOverride"]

# message_size_limit where no provider publishes one: Postfix's own default, postconf(5).
POSTFIX_MESSAGE_BYTES = 10_240_000


class RelayConfig(ProviderChoice):
    """Everything that decides what is baked. Never holds a credential, only the names of secrets."""

    hostname: HostName = "relay.internal"
    """`myhostname`; an instance may be given its own at boot."""
    domain: Domain | None = None
    """`myorigin`: appended to senders without a domain; the host name's parent when not set."""
    networks: tuple[Network, ...] = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    """`mynetworks`: who may relay without logging in, beside the machine itself."""
    allow_any_network: bool = False
    """Needed for public networks wider than a /16 (IPv6: /32)."""
    secret_region: str | None = None
    """AWS region of Secrets Manager, for secrets that are given by name; an ARN has its own.

    When not set: that of the ARN in `secret`, `region` where that is one of AWS', else the instance's own.
    """
    delivery: DeliveryOverride = DeliveryOverride()
    message_bytes: Whole | None = Field(default=None, ge=1024, le=1_000_000_000)
    """`message_size_limit`; the smallest limit of the providers when not set."""
    recipients_per_message: Whole | None = Field(default=None, ge=1, le=100_000)
    """Recipients that one message may have when it comes in (`smtpd_recipient_limit`)."""
    main_cf: dict[str, Annotated[str, BeforeValidator(as_text)]] = Field(default_factory=dict)
    """Further main.cf parameters, for what builder has no key for."""
    packages: tuple[PackageName, ...] = ()
    """Further packages to install in the image."""
    access: Access = Access()
    submission: Submission | None = None
    clients: ClientLimits = ClientLimits()
    firewall: Firewall = Firewall()
    quota: Quota | None = None
    fallback: ProviderChoice | None = None
    """Takes over within the same delivery attempt when the provider has a fault."""
    routes: tuple[Route, ...] = ()
    warm_up: WarmUp | None = None
    hygiene: Hygiene = Hygiene()
    dsn: Dsn = Dsn()
    dkim: Dkim | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> RelayConfig:
        problems = list(check(self))
        if problems:
            details = [
                InitErrorDetails(
                    type=PydanticCustomError("relay", "{text}", {"text": item.text, "hint": item.hint}),
                    loc=item.where,
                    input=None,
                )
                for item in problems
            ]
            raise ValidationError.from_exception_data("RelayConfig", details, hide_input=True)
        return self

    def upstreams(self) -> Iterator[tuple[str, ProviderChoice]]:
        """Give every provider with its name: primary, fallback, warm-up, and the routes' own names."""
        yield "primary", self
        if self.fallback:
            yield "fallback", self.fallback
        if self.warm_up:
            yield "warm-up", self.warm_up
        for route in self.routes:
            yield route.name, route

    @property
    def mail_domain(self) -> str:
        """`myorigin`: what is appended to an address without a domain."""
        return self.domain or self.hostname.partition(".")[2]

    @property
    def null_sender(self) -> Literal["reject", "rewrite", "pass"]:
        """What becomes of clients' mail with a null sender."""
        accepts = self.provider.accepts_null_sender
        return self.dsn.from_clients or ("pass" if accepts and accepts.value else "reject")

    @property
    def notice_sender(self) -> str | None:
        """The sender of notices, which the provider must know; None where none are sent."""
        rewrite = self.hygiene.sender_rewrite
        if self.dsn.address is None:
            return None
        return self.dsn.sender or (rewrite.address if rewrite else self.dsn.address)

    @property
    def aws_region(self) -> str | None:
        """The region of Secrets Manager for secrets without an ARN; None: the instance finds its own."""
        own = self.region if self.region and is_aws_region(self.region) else None
        return self.secret_region or arn_region(self.secret) or own

    @property
    def size_limit(self) -> int:
        """`message_size_limit` in bytes: no more than any provider takes, since it may get the message."""
        known = [choice.provider.limits.message_bytes for _name, choice in self.upstreams()]
        return self.message_bytes or min(
            (limit.value for limit in known if limit), default=POSTFIX_MESSAGE_BYTES
        )

    @property
    def delivery_choice(self) -> Delivery:
        """The preset's choice with relay.yaml's in front."""
        own = self.delivery.model_dump(exclude_none=True, exclude={"recipients_per_delivery"})
        chosen = {**self.provider.delivery.model_dump(), **own}
        if "initial_concurrency" not in own:
            chosen["initial_concurrency"] = min(chosen["initial_concurrency"], chosen["concurrency"])
        return Delivery.model_validate(chosen)

    @property
    def recipients_per_delivery(self) -> int:
        """Recipients in one transaction: Postfix's 50, or fewer where a provider takes fewer."""
        limits = [choice.provider.limits.recipients_per_message for _name, choice in self.upstreams()]
        return self.delivery.recipients_per_delivery or min([50, *(limit.value for limit in limits if limit)])

"""What happens to a message on its way: headers, sender rewriting, and where bounces go."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from builder.config.values import Domain, HeaderName, MailAddress, OneLine, Whole
from builder.presets import Model

# What mail programs add and tells about the inside; none is needed for delivery.
CLIENT_HEADERS = (
    *("User-Agent", "X-Mailer", "X-MimeOLE", "X-Originating-IP", "X-Originating-Client", "X-PHP-Script"),
    *("X-PHP-Originating-Script", "X-Source", "X-Source-Args", "X-Source-Dir", "X-Get-Message-Sender-Via"),
)
# Without these a message is not what its sender meant, or not a valid one (RFC 5322, 3.6; RFC 2045).
_NEEDED = re.compile(
    r"(?i)from|sender|to|cc|bcc|reply-to|subject|date|message-id|in-reply-to|references|mime-version"
    r"|content-.*|return-path|received|dkim-signature|auto-submitted|resent-.*"
)


def _removable(value: str) -> str:
    if _NEEDED.fullmatch(value):
        hint = "; use `hygiene.strip_received`" if value.lower() == "received" else ""
        raise ValueError(f"expected a header that a message can do without{hint}")
    return value


def _addable(value: str) -> str:
    if _NEEDED.fullmatch(value):
        raise ValueError("expected a header that the message does not have by itself, such as `X-Tag`")
    return value


def _ses_name(value: str) -> str:
    # https://docs.aws.amazon.com/ses/latest/APIReference/API_ConfigurationSet.html
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value):
        raise ValueError("expected letters, digits, `_` and `-`, 64 at most")
    return value


def _tag_name(value: str) -> str:
    # https://docs.aws.amazon.com/ses/latest/APIReference/API_MessageTag.html
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,256}", value) or value.lower().startswith("ses:"):
        raise ValueError("expected letters, digits, `_` and `-`, 256 at most")
    return value


def _tag_value(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.@-]{1,256}", value):
        raise ValueError("expected letters, digits and `_.@-`, 256 at most")
    return value


RemovableHeader = Annotated[HeaderName, AfterValidator(_removable)]
AddedHeader = Annotated[HeaderName, AfterValidator(_addable)]


class SenderRewrite(Model):
    """Replace senders that the provider would refuse (Gmail and Microsoft 365 take only the account's)."""

    address: MailAddress
    """What replaces them."""
    keep: tuple[Domain, ...] = ()
    """Senders in these domains stay as they are."""
    from_header: bool = True
    """Replace the From header too, not the envelope sender alone."""


class Hygiene(Model):
    """Headers that are removed, set or rewritten."""

    strip_received: bool = False
    """Take names and addresses out of Received headers: earlier hops, and the client in this relay's own.

    A line for each hop stays, since Postfix counts them to end a loop.
    """
    strip_client_headers: bool = False
    """Remove User-Agent, X-Mailer and the like; see CLIENT_HEADERS."""
    strip_headers: tuple[RemovableHeader, ...] = ()
    """Further headers to remove."""
    set_headers: dict[AddedHeader, OneLine] = Field(default_factory=dict)
    """Headers with a fixed value; what the client sent under that name is removed first."""
    sender_rewrite: SenderRewrite | None = None
    configuration_set: Annotated[str, AfterValidator(_ses_name)] | None = None
    """SES: X-SES-CONFIGURATION-SET, once."""
    tags: dict[Annotated[str, AfterValidator(_tag_name)], Annotated[str, AfterValidator(_tag_value)]] = Field(
        default_factory=dict, max_length=50
    )
    """SES: X-SES-MESSAGE-TAGS, once."""

    @property
    def removed_headers(self) -> tuple[str, ...]:
        """Every header that is removed from what clients send, without Received."""
        client = CLIENT_HEADERS if self.strip_client_headers else ()
        return tuple(dict.fromkeys((*client, *self.strip_headers, *self.added_headers)))

    @property
    def added_headers(self) -> dict[str, str]:
        """Every header that is set, SES' own included."""
        added = dict(self.set_headers)
        if self.configuration_set:
            added["X-SES-CONFIGURATION-SET"] = self.configuration_set
        if self.tags:
            added["X-SES-MESSAGE-TAGS"] = ", ".join(f"{name}={value}" for name, value in self.tags.items())
        return added


class Dsn(Model):
    """Where bounces of mail from this relay go; providers refuse their null sender.

    Without `address` they are kept in a spool on the relay, counted in a metric.
    """

    address: MailAddress | None = None
    """Notices about what could not be delivered go there, through the provider."""
    sender: MailAddress | None = None
    """Their sender, which the provider must accept; `address` when not set."""
    classes: tuple[
        Literal["bounce", "2bounce", "data", "delay", "policy", "protocol", "resource", "software"], ...
    ] = ("bounce", "2bounce", "resource", "software")
    """What to send notices about (notify_classes, postconf(5))."""
    spool_days: Whole = Field(default=30, ge=1, le=365)
    """How long the spool keeps them."""
    from_clients: Literal["reject", "rewrite", "pass"] | None = None
    """Mail of clients that has the null sender `<>`, such as reports of a mail server behind this relay.

    `reject`: refused at RCPT TO with 550 and the reason. `rewrite`: sent from `sender`. `pass`: offered to
    the provider as it is; what that refuses is kept as a report. Not set: `reject`, or `pass` where the
    provider is known to take it. Access rules for `<>` are asked first.
    """

    @model_validator(mode="after")
    def _needs_address(self) -> Dsn:
        if self.sender and not self.address:
            raise ValueError("`sender` is set but `address` is not")
        if self.from_clients == "rewrite" and not self.address:
            raise ValueError("`from_clients` is `rewrite` but `address`, from which to send, is not set")
        return self

"""Who may send what: access rules, submission with a login, limits per client, the firewall."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from builder.config.values import Domain, Network, SecretName, Whole, is_host_name
from builder.posix_regex import as_python, posix_problem
from builder.presets import Model

PatternKind = Literal["exact", "domain", "regexp"]
Action = Literal["reject", "hold", "discard", "allow"]
# What else a local part may hold stands in quotes (RFC 5321, 4.1.2); a `regexp` can match that.
_EXACT = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?P<domain>[^@]+)")


def _text(value: str) -> str:
    if not re.fullmatch(r"[ -~]{1,200}", value):
        raise ValueError("expected one line of ASCII text, 200 characters at most")
    return value


class AccessRule(Model):
    """What to do with a sender or recipient that matches; the first rule that matches decides.

    `exact`: one address, or `<>` for the null sender of bounces. `domain`: the domain and its subdomains,
    or with a leading dot the subdomains alone. `regexp`: a POSIX extended expression over the whole
    address, capitals and small letters the same (regexp_table(5)).
    """

    pattern: str = Field(min_length=1, max_length=500)
    kind: PatternKind
    action: Action
    text: Annotated[str, AfterValidator(_text)] | None = None
    """What the client is told (reject) or what is logged (hold, discard)."""

    @model_validator(mode="after")
    def _pattern_fits_its_kind(self) -> AccessRule:
        problem = _pattern_problem(self.kind, self.pattern)
        if problem:
            raise ValueError(f"`pattern` of kind `{self.kind}`: {problem}")
        return self

    @property
    def ere(self) -> str:
        """The rule as a POSIX extended regular expression over the whole address (`<>` for none)."""
        if self.kind == "regexp":
            return self.pattern
        if self.kind == "exact":
            return f"^{_escaped(self.pattern)}$"
        if self.pattern.startswith("."):
            return rf"@[^@]+{_escaped(self.pattern)}$"
        return rf"@([^@]+\.)?{_escaped(self.pattern)}$"

    def matches(self, address: str) -> bool:
        """Whether it is the rule for an address (`<>` for none)."""
        return re.search(as_python(self.ere), address, re.IGNORECASE) is not None


def _escaped(text: str) -> str:
    return re.sub(r"([][\\.^$*+?(){}|])", r"\\\1", text)


def _pattern_problem(kind: PatternKind, pattern: str) -> str | None:
    if kind == "regexp":
        return posix_problem(pattern)
    if kind == "domain":
        name = pattern.removeprefix(".").lower()
        return None if is_host_name(name) else f"`{pattern}` is not a domain such as `example.com`"
    found = _EXACT.fullmatch(pattern)
    if pattern != "<>" and (not found or not is_host_name(found["domain"].lower())):
        return f"`{pattern}` is not an address such as `app@example.com`"
    return None


class AccessList(Model):
    """Rules in order, and what happens to an address that none matches."""

    rules: tuple[AccessRule, ...] = ()
    otherwise: Literal["allow", "reject"] = "allow"
    """With `reject` the rules are a list of who may. The null sender (`<>`) is up to `dsn.from_clients`."""


class SenderDomains(Model):
    """Clients in these networks may send only as these domains (envelope sender) and their subdomains."""

    networks: tuple[Network, ...] = Field(min_length=1)
    domains: tuple[Domain, ...] = Field(min_length=1)


class Access(Model):
    """Which senders and recipients are accepted, beside `networks`."""

    senders: AccessList = AccessList()
    recipients: AccessList = AccessList()
    sender_domains: tuple[SenderDomains, ...] = ()
    """The narrowest network that holds the client decides; a client in none may send as any domain."""


class Submission(Model):
    """Clients that log in, over TLS, on a port of their own; users come from a secret.

    The secret is `{"users": {"app": "its password"}}`, and with `certificate: secret` also `certificate`
    and `private_key` in PEM; `builder secret put` stores it. `self_signed`: each instance makes its own at
    boot; clients must then trust it.
    """

    secret: SecretName
    port: Literal[587, 465] = 587
    """587: TLS begins with STARTTLS, which is demanded before a login; 465: implicit TLS."""
    certificate: Literal["secret", "self_signed"] = "secret"
    networks: Annotated[tuple[Network, ...], Field(min_length=1)] | None = None
    """From where the port may be reached; `networks` of the relay when not set."""


class ClientLimits(Model):
    """Limits for each client address, of each relay; they hold for `networks` too. Not set: no limit."""

    connections: Whole | None = Field(default=None, ge=1, le=10_000)
    """Open at once."""
    connections_per_minute: Whole | None = Field(default=None, ge=1, le=1_000_000)
    messages_per_minute: Whole | None = Field(default=None, ge=1, le=1_000_000)
    recipients_per_minute: Whole | None = Field(default=None, ge=1, le=10_000_000)
    exempt: tuple[Network, ...] = ()
    """Clients without limits."""


class Firewall(Model):
    """nftables in the image: mail ports from `networks` alone, management ports separately."""

    enabled: bool = True
    management_ports: tuple[Annotated[Whole, Field(ge=1, le=65535)], ...] = (22, 8025)
    management_networks: tuple[Network, ...] | None = None
    """Who reaches them; anybody when not set, since a load balancer's addresses are not known here."""

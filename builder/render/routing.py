"""Decide which mail goes to which provider, in Postfix's terms: relayhost, transports and lookup tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

from builder.config.model import RelayConfig
from builder.config.routing import ProviderChoice
from builder.releases import Release

SPOOL_TRANSPORT = "dsn-spool"
# What the agent writes; without an entry mail waits, and is never sent without a login.
SASL_MAP = "/run/relay/sasl"
NO_CREDENTIAL = "fail:no-credentials"


@dataclass(frozen=True)
class Transport:
    """A delivery agent of its own for one provider: an entry of master.cf and its limits in main.cf."""

    name: str
    title: str
    nexthop: str
    wrappermode: bool
    mechanisms: tuple[str, ...]
    concurrency: int
    initial_concurrency: int
    messages_per_connection: int
    password_key: str
    """Where the password map has its credential: the host, or an account's own name."""
    host: str
    waits: bool
    """For the rate of `quota`: it leads to the account that has it."""

    @property
    def master_cf(self) -> str:
        """The entry of master.cf; `relayhost`'s own fallback is not for it."""
        options = {
            "smtp_tls_wrappermode": "yes" if self.wrappermode else "no",
            "smtp_sasl_mechanism_filter": ",".join(self.mechanisms),
            "smtp_connection_reuse_count_limit": str(self.messages_per_connection),
            "smtp_fallback_relay": "",
            "syslog_name": f"postfix/{self.name}",
        }
        if self.password_key != self.host:
            # Postfix asks for the host, which has another account's credential (pipemap: DATABASE_README).
            key = f"inline:{{{self.host}={self.password_key}}}"
            options["smtp_sasl_password_maps"] = f"pipemap:{{{key},texthash:{SASL_MAP}}},{NO_CREDENTIAL}"
        if not self.waits:
            # In place of the table that lets messages go at the rate of another account.
            options["smtp_connection_cache_destinations"] = "static:all"
        overrides = " ".join(f"-o {name}={value}" for name, value in options.items())
        return f"{self.name} unix - - n - - smtp {overrides}"


@dataclass(frozen=True)
class Table:
    """A lookup table: one pattern or key and its result a line."""

    rows: tuple[tuple[str, str], ...]

    def __bool__(self) -> bool:
        return bool(self.rows)


def nexthop(choice: ProviderChoice) -> str:
    """Return a provider as Postfix's next hop; brackets mean no MX lookup."""
    return f"[{choice.upstream_host}]:{choice.upstream_port}"


def relayhost(config: RelayConfig, release: Release) -> tuple[str, str]:
    """Return `relayhost` and `smtp_fallback_relay`; before Postfix 3.5 the first takes one host only."""
    first = nexthop(config)
    if config.fallback is None:
        return first, ""
    if release.supports_relayhost_list:
        return f"{first}, {nexthop(config.fallback)}", ""
    return first, nexthop(config.fallback)


def transports(config: RelayConfig) -> list[Transport]:
    """Return the delivery agents for routes and the warm-up."""
    choices = [(name, choice) for name, choice in config.upstreams() if name not in ("primary", "fallback")]
    keys = password_keys(config)
    # Two credentials at one host may be of one account, as two IAM users are for SES: both wait for its turn.
    paced = config.upstream_host if config.quota else None
    return [
        _transport(name, choice, keys[account(choice)], waits=paced in (None, choice.upstream_host))
        for name, choice in choices
    ]


def account(choice: ProviderChoice) -> tuple[str, str]:
    """Return what tells one login from another: the host and the secret."""
    return choice.upstream_host, choice.secret_name


def password_keys(config: RelayConfig) -> dict[tuple[str, str], str]:
    """Return each account's key in the password map: its host, which Postfix looks up, where that is free.

    A second account at the same host has the name of its transport, which only that transport looks up.
    """
    keys: dict[tuple[str, str], str] = {}
    for name, choice in config.upstreams():
        is_taken = choice.upstream_host in keys.values()
        keys.setdefault(account(choice), transport_name(name) if is_taken else choice.upstream_host)
    return keys


def _transport(name: str, choice: ProviderChoice, password_key: str, *, waits: bool) -> Transport:
    pace = choice.provider.delivery
    return Transport(
        name=transport_name(name),
        title=choice.provider.title,
        nexthop=nexthop(choice),
        wrappermode=choice.upstream_tls == "implicit",
        mechanisms=choice.mechanisms,
        concurrency=pace.concurrency,
        initial_concurrency=min(pace.initial_concurrency, pace.concurrency),
        messages_per_connection=pace.messages_per_connection,
        password_key=password_key,
        host=choice.upstream_host,
        waits=waits,
    )


def transport_name(name: str) -> str:
    """Return the transport of a route; Postfix has `error`, `local` and others of its own."""
    return name if name == "warm-up" else f"to-{name}"


def recipient_table(config: RelayConfig) -> Table:
    """Return routes by recipient domain, for transport(5) as texthash: the domain, and its subdomains."""
    rows: list[tuple[str, str]] = []
    for route in config.routes:
        result = f"{transport_name(route.name)}:{nexthop(route)}"
        for domain in route.recipient_domains:
            rows += [(domain, result), (f".{domain}", result)]
    return Table(tuple(rows))


def sender_rows(config: RelayConfig) -> Iterator[tuple[str, str]]:
    """Give routes by sender as regular expressions; a null sender has none."""
    pairs = [(domain, route) for route in config.routes for domain in route.sender_domains]
    # The first pattern that matches is used: what lies deeper comes first, as in a table by recipient domain.
    for domain, route in sorted(pairs, key=lambda pair: -pair[0].count(".")):
        yield domain_pattern(domain), f"{transport_name(route.name)}:{nexthop(route)}"


def warm_up_map(config: RelayConfig, percent: int) -> str:
    """Return a table that sends this part of the mail to the provider that warms up, or nothing.

    `randmap:` picks one of its entries for each recipient (DATABASE_README): a part is a number of entries.
    """
    plan = config.warm_up
    if plan is None or percent <= 0:
        return ""
    step = gcd(percent, 100)
    # `smtp:` without a next hop leaves the choice to relayhost.
    entries = ["smtp:"] * ((100 - percent) // step) + [f"warm-up:{nexthop(plan)}"] * (percent // step)
    return "randmap:{" + ",".join(entries) + "}"


def domain_pattern(domain: str) -> str:
    """Return a POSIX extended expression for addresses in a domain and its subdomains."""
    return rf"@([^@]+\.)?{domain.replace('.', chr(92) + '.')}$"

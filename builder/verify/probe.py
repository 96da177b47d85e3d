"""Choose the addresses of a test message: accepted by this configuration, and sent to its first provider."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from builder.config import RelayConfig
from builder.config.policy import AccessList
from builder.errors import BuilderError

SENDER, RECIPIENT = "app@example.com", "someone@example.net"
_NAME = "relay-probe"


def choose_addresses(config: RelayConfig, client: str) -> tuple[str, str]:
    """Return a sender and a recipient of mail from `client` that reaches the first provider.

    Errors: BuilderError when the access rules allow no address that can be made up from them.
    """
    own = _own_domains(config, client)
    # Of a domain with a DKIM key where that may be, so that the signature is seen as well.
    signed = [key.domain for key in config.dkim.keys] if config.dkim else []
    usual = [f"{_NAME}@{domain}" for domain in signed] + [SENDER]
    senders = (name for name in _candidates(config.access.senders, usual, own or ()) if _is_of(name, own))
    routed = [domain for route in config.routes for domain in route.sender_domains]
    sender = _first_allowed(config.access.senders, senders, routed, "senders")
    recipients = _candidates(config.access.recipients, [RECIPIENT], ())
    routed = [domain for route in config.routes for domain in route.recipient_domains]
    return sender, _first_allowed(config.access.recipients, recipients, routed, "recipients")


def sender_at_provider(config: RelayConfig, sender: str) -> str:
    """Return the envelope sender that the provider gets to see."""
    rewrite = config.hygiene.sender_rewrite
    return sender if rewrite is None or is_in(sender, rewrite.keep) else rewrite.address


def is_in(address: str, domains: Iterable[str]) -> bool:
    """Whether an address is in one of the domains or below it."""
    domain = address.partition("@")[2].lower()
    return any(domain == name.lower() or domain.endswith(f".{name.lower()}") for name in domains)


def _first_allowed(rules: AccessList, names: Iterable[str], routed: Sequence[str], kind: str) -> str:
    for name in names:
        if _action(rules, name) == "allow" and not is_in(name, routed):
            return name
    raise BuilderError(
        f"No test message can be sent: `access.{kind}` allows no address that its rules spell out",
        hint=f"Allow one exact address there, such as `{SENDER}`, or bake with `--verify none`",
    )


def _candidates(rules: AccessList, usual: Iterable[str], domains: Iterable[str]) -> Iterator[str]:
    yield from usual
    yield from (f"{_NAME}@{domain}" for domain in domains)
    for rule in rules.rules:
        if rule.action == "allow" and rule.kind == "exact" and rule.pattern != "<>":
            yield rule.pattern
        elif rule.action == "allow" and rule.kind == "domain":
            domain = rule.pattern
            yield f"{_NAME}@{'mail' if domain.startswith('.') else ''}{domain}"
    yield from (f"{_NAME}@{domain}" for domain in ("verify.example", "example.org"))


def _own_domains(config: RelayConfig, client: str) -> tuple[str, ...] | None:
    """Return the domains that the narrowest network around the client may use; None: any."""
    address = ipaddress.ip_address(client)
    around = [
        (network.prefixlen, rule.domains)
        for rule in config.access.sender_domains
        for network in map(ipaddress.ip_network, rule.networks)
        if address in network
    ]
    return max(around)[1] if around else None


def _action(rules: AccessList, address: str) -> str:
    for rule in rules.rules:
        if rule.matches(address):
            return rule.action
    return rules.otherwise


def _is_of(address: str, domains: Sequence[str] | None) -> bool:
    return domains is None or is_in(address, domains)

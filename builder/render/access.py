"""Render who may send what: access tables that smtpd really asks, and limits that hold for `networks` too."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from builder.config.model import RelayConfig
from builder.config.policy import AccessList, AccessRule, SenderDomains
from builder.render.postfix_values import postfix_network
from builder.render.routing import domain_pattern
from builder.render.templates import regexp_pattern, regexp_result, render_template

_TEXTS = {
    "reject": "5.7.1 this relay does not accept that address",
    "hold": "held by an access rule",
    "discard": "discarded by an access rule",
}
_SENDERS = "etc/postfix/sender_access.regexp"
_RECIPIENTS = "etc/postfix/recipient_access.regexp"
_NETWORKS = "etc/postfix/sender_networks.cidr"
_DISCARDED = "etc/postfix/discarded_recipients.regexp"


@dataclass(frozen=True)
class AccessFiles:
    """The tables, and how main.cf asks them."""

    files: dict[str, str]
    recipient_restrictions: tuple[str, ...]
    restriction_classes: dict[str, str]
    transport_maps: tuple[str, ...]


def render_access(config: RelayConfig) -> AccessFiles:
    """Return the access tables of a configuration; nothing at all where there are no rules."""
    access = config.access
    files: dict[str, str] = {}
    restrictions: list[str] = []
    classes = _sender_networks(access.sender_domains, files)
    if classes:
        restrictions.append(f"check_client_access cidr:/{_NETWORKS}")
    if access.senders.rules or access.senders.otherwise == "reject":
        files[_SENDERS] = _table("senders", access.senders)
        restrictions.append(f"check_sender_access regexp:/{_SENDERS}")
    if access.recipients.rules or access.recipients.otherwise == "reject":
        files[_RECIPIENTS] = _table("recipients", access.recipients, discard="DUNNO")
        restrictions.append(f"check_recipient_access regexp:/{_RECIPIENTS}")
    discarded = _discarded(access.recipients.rules)
    if discarded:
        files[_DISCARDED] = discarded
    return AccessFiles(
        files=files,
        recipient_restrictions=tuple(restrictions),
        restriction_classes=classes,
        transport_maps=(f"regexp:/{_DISCARDED}",) if discarded else (),
    )


def _table(what: str, rules: AccessList, *, discard: str = "") -> str:
    """Return a table; `discard` stands for that action where the mail is dropped later (`_discarded`)."""
    rows = [
        (regexp_pattern(rule.ere), discard if discard and rule.action == "discard" else _action(rule))
        for rule in rules.rules
    ]
    return render_template(
        "postfix/access.regexp.j2", what=what, rows=rows, otherwise=rules.otherwise, text=_TEXTS["reject"]
    )


def _action(rule: AccessRule) -> str:
    if rule.action == "allow":
        return "DUNNO"
    text = rule.text or _TEXTS[rule.action]
    if rule.action == "reject" and rule.text and not rule.text[:1].isdigit():
        text = f"5.7.1 {rule.text}"
    return regexp_result(f"{rule.action.upper()} {text}")


def _discarded(rules: Sequence[AccessRule]) -> str:
    """Discard recipients one by one, by transport: access(5) would discard the message for all of them.

    A rule before it that matches comes first; `if !` blocks say so.
    """
    lines: list[str] = []
    for position, rule in enumerate(rules):
        if rule.action != "discard":
            continue
        before = [f"if !/{regexp_pattern(other.ere)}/" for other in rules[:position]]
        result = regexp_result(f"discard:{rule.text or _TEXTS['discard']}")
        row = f"/{regexp_pattern(rule.ere)}/  {result}"
        lines += [*before, row, *(["endif"] * len(before))]
    if not lines:
        return ""
    return "# Recipients whose mail is dropped, each with a line in the log.\n" + "\n".join(lines) + "\n"


def _sender_networks(rules: Sequence[SenderDomains], files: dict[str, str]) -> dict[str, str]:
    """Add the tables for sender domains by network; return the restriction classes that use them."""
    classes = {}
    networks: list[tuple[str, str]] = []
    for number, rule in enumerate(rules, start=1):
        name, path = f"senders_of_network_{number}", f"etc/postfix/senders_of_network_{number}.regexp"
        rows = [(regexp_pattern(domain_pattern(domain)), "DUNNO") for domain in rule.domains]
        files[path] = render_template(
            "postfix/access.regexp.j2",
            what=f"senders that {', '.join(rule.networks)} may use",
            rows=rows,
            otherwise="reject",
            text="5.7.1 this network may not send as that domain",
        )
        classes[name] = f"check_sender_access regexp:/{path}"
        networks += [(network, name) for network in rule.networks]
    if networks:
        files[_NETWORKS] = render_template("postfix/sender_networks.cidr.j2", rows=_narrowest_first(networks))
    return classes


def _narrowest_first(networks: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(networks, key=lambda row: -ipaddress.ip_network(row[0]).prefixlen)


def client_limits(config: RelayConfig) -> Iterator[tuple[str, str, str]]:
    """Give the parameters for limits per client, each with its reason."""
    limits = config.clients
    exempt = " ".join(postfix_network(network) for network in limits.exempt)
    yield (
        "smtpd_client_event_limit_exceptions",
        exempt,
        "By default everybody in mynetworks is exempt, which is every client that a relay has.",
    )
    for name, value, reason in (
        ("connection_count", limits.connections, "Open at once from one client"),
        ("connection_rate", limits.connections_per_minute, "Connections a minute from one client"),
        ("message_rate", limits.messages_per_minute, "Messages a minute from one client"),
        ("recipient_rate", limits.recipients_per_minute, "Recipients a minute from one client"),
    ):
        if value is not None:
            yield f"smtpd_client_{name}_limit", str(value), f"{reason}; more get 450 or 421."
        elif name == "connection_count":
            yield "smtpd_client_connection_count_limit", "0", "No limit was asked for; the default is 50."

"""What must fit together about clients: networks, the submission port, limits, the firewall."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from builder.config.problem import Problem, Where
from builder.config.values import IpNetwork, is_too_wide, merged, within

if TYPE_CHECKING:
    from builder.config.model import RelayConfig


def check_clients(config: RelayConfig) -> Iterator[Problem]:
    """Give every mistake about who reaches the relay."""
    yield from _networks(config)
    yield from _sender_domains(config)
    yield from _submission(config)
    yield from _exempt(config)
    yield from _management(config)


def _parsed(networks: Sequence[str]) -> list[IpNetwork]:
    return [ipaddress.ip_network(network) for network in networks]


def _networks(config: RelayConfig) -> Iterator[Problem]:
    if not config.networks and not config.submission:
        yield Problem(("networks",), "is empty, so nobody may relay", "Add the networks of your clients")
    for index, network in enumerate(config.networks):
        if is_too_wide(network) and not config.allow_any_network:
            what = "everybody" if network.endswith("/0") else "more than a /16 of the internet (IPv6: /32)"
            yield Problem(
                ("networks", index),
                f"is `{network}`, which lets {what} relay without logging in",
                "Name your own networks; where a firewall keeps strangers out, set `allow_any_network: true`",
            )


def _sender_domains(config: RelayConfig) -> Iterator[Problem]:
    own = _parsed(config.networks)
    seen: set[str] = set()
    for index, rule in enumerate(config.access.sender_domains):
        for position, network in enumerate(rule.networks):
            where: Where = ("access", "sender_domains", index, "networks", position)
            if not within(ipaddress.ip_network(network), own):
                text = f"is `{network}`, which is not inside `networks`, so no client from there may relay"
                yield Problem(where, text, "Add it to `networks` or remove it here")
            if network in seen:
                yield Problem(
                    where, f"is `{network}`, which an earlier entry has too", "Put the domains together"
                )
            seen.add(network)


def _submission(config: RelayConfig) -> Iterator[Problem]:
    if config.submission is None:
        return
    allowed = config.submission.networks
    if not config.firewall.enabled:
        if allowed is not None:
            yield _without_firewall(("submission", "networks"))
    elif allowed is None and not config.networks:
        yield Problem(
            ("submission", "networks"),
            "is missing; `networks` is empty, so nobody reaches the port",
            "Name the networks of its clients, or `0.0.0.0/0` and `::/0` for everybody who can log in",
        )


def _exempt(config: RelayConfig) -> Iterator[Problem]:
    limits, own = config.clients, _parsed(config.networks)
    exempt = _parsed(limits.exempt)
    for index, network in enumerate(exempt):
        if not within(network, own):
            yield Problem(
                ("clients", "exempt", index), f"is `{network}`, which is not inside `networks`", "Remove it"
            )
    if not exempt or not limits.model_dump(exclude_none=True, exclude={"exempt"}):
        return
    clients = [*own, *_parsed((config.submission.networks or ()) if config.submission else ())]
    if clients and all(within(network, merged(exempt)) for network in merged(clients)):
        text = "holds all of `networks`, so the limits are for nobody"
        yield Problem(("clients", "exempt"), text, "Name fewer networks, or remove the limits")


def _management(config: RelayConfig) -> Iterator[Problem]:
    firewall, mail = config.firewall, {25, *([config.submission.port] if config.submission else [])}
    for index, port in enumerate(firewall.management_ports):
        if port in mail:
            text = f"is {port}, a mail port, which is open to `networks` alone"
            yield Problem(("firewall", "management_ports", index), text, "Remove it")
    if firewall.management_networks is None:
        return
    if not firewall.enabled:
        yield _without_firewall(("firewall", "management_networks"))
    elif not firewall.management_ports:
        text = "is empty, so there is nothing for `management_networks` to reach"
        yield Problem(
            ("firewall", "management_ports"), text, "Name ports, or remove `firewall.management_networks`"
        )


def _without_firewall(where: Where) -> Problem:
    return Problem(where, "has no effect while `firewall.enabled` is false", "Remove one of the two")

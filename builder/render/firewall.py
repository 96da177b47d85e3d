"""Render the firewall: mail from `networks` only, management ports as relay.yaml says, the rest as it was."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from builder.config.model import RelayConfig
from builder.render.templates import render_template

HEALTH_PORT = 8025
_MAIL_PORTS = (25,)


@dataclass(frozen=True)
class Rule:
    """Ports that only some networks reach; the sets are called `name4` and `name6`."""

    name: str
    ports: tuple[int, ...]
    networks4: tuple[str, ...]
    networks6: tuple[str, ...]


def render_firewall(config: RelayConfig) -> dict[str, str]:
    """Return `/etc/nftables.conf`; with the firewall off, one that changes nothing."""
    rules = list(_rules(config)) if config.firewall.enabled else []
    return {"etc/nftables.conf": render_template("nftables.conf.j2", rules=rules)}


def agent_firewall(config: RelayConfig) -> dict[str, Any]:
    """Return what the agent has to know: is there a firewall, and which sets hold the relay's networks.

    These it replaces when the launch user data names other networks.
    """
    if not config.firewall.enabled:
        return {"enabled": False}
    follows = config.submission is not None and config.submission.networks is None
    return {"enabled": True, "sets": ["networks", *(["submission"] if follows else [])]}


def _rules(config: RelayConfig) -> Iterable[Rule]:
    yield _rule("networks", _MAIL_PORTS, config.networks)
    if config.submission:
        allowed = config.networks if config.submission.networks is None else config.submission.networks
        yield _rule("submission", (config.submission.port,), allowed)
    if config.firewall.management_networks is not None:
        yield _rule("management", config.firewall.management_ports, config.firewall.management_networks)


def _rule(name: str, ports: tuple[int, ...], networks: Iterable[str]) -> Rule:
    parsed = [ipaddress.ip_network(network) for network in networks]
    return Rule(
        name=name,
        ports=ports,
        networks4=tuple(str(network) for network in parsed if network.version == 4),
        networks6=tuple(str(network) for network in parsed if network.version == 6),
    )

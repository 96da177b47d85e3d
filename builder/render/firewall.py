"""Render the firewall: mail from `networks` only, health from the management networks, SSH as it was."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from builder.config.model import RelayConfig
from builder.render.templates import render_template

MAIL_PORTS = (25, 587)
HEALTH_PORT = 8025


def render_firewall(config: RelayConfig) -> dict[str, str]:
    """Return `/etc/nftables.conf`."""
    networks4, networks6 = _by_family(config.networks)
    text = render_template(
        "nftables.conf.j2",
        networks4=networks4,
        networks6=networks6,
        management4=networks4,
        management6=networks6,
        mail_ports=MAIL_PORTS,
        health_port=HEALTH_PORT,
    )
    return {"etc/nftables.conf": text}


def _by_family(networks: Iterable[str]) -> tuple[list[str], list[str]]:
    parsed = [ipaddress.ip_network(network) for network in networks]
    return (
        [str(network) for network in parsed if network.version == 4],
        [str(network) for network in parsed if network.version == 6],
    )

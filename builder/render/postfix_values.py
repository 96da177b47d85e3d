"""How values are spelled in main.cf."""

from __future__ import annotations

import ipaddress


def postfix_network(network: str) -> str:
    """Write a network as `mynetworks` wants it: IPv6 addresses in brackets (postconf(5))."""
    parsed = ipaddress.ip_network(network)
    if parsed.version == 6:
        return f"[{parsed.network_address}]/{parsed.prefixlen}"
    return str(parsed)

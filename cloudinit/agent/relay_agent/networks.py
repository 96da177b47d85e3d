"""Networks as the agent reads and compares them, by the rules of relay.yaml (builder/config/values.py)."""

from __future__ import annotations

import ipaddress
from typing import Any, Iterable, List, Union

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
# A public network wider than this is taken for a mistake.
_WIDEST_PUBLIC_PREFIX = {4: 16, 6: 32}
_PRIVATE = [
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")
    + ("127.0.0.0/8", "fc00::/7", "fe80::/10", "::1/128")
]
# Postfix knows clients by their IPv4 address, and nftables takes no interface's name in a set.
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")


def parse(text: str) -> Network:
    """Read a network. Errors: ValueError also for what nftables or Postfix would not take."""
    network = ipaddress.ip_network(text)
    if "%" in text or lies_in(network, _MAPPED):
        raise ValueError(text)
    return network


def is_too_wide(network: Network) -> bool:
    """Whether a network lets in more than private addresses and more than a /16 (IPv6: /32)."""
    # Not `is_private`: for 0.0.0.0/0 it is true, since the first and the last address are reserved.
    is_private = any(lies_in(network, other) for other in _PRIVATE)
    return not is_private and network.prefixlen < _WIDEST_PUBLIC_PREFIX[network.version]


def collapse(networks: Iterable[Network]) -> List[Network]:
    """Join neighbours and drop what lies in another, as nft does in its sets: IPv4 first, in order."""
    every: Any = list(networks)
    return [
        network
        for version in (4, 6)
        for network in ipaddress.collapse_addresses(item for item in every if item.version == version)
    ]


def lies_in(network: Network, other: Network) -> bool:
    """Whether a network is inside another, or the same."""
    # subnet_of() refuses to compare the two versions of IP.
    return (
        network.version == other.version
        and network.prefixlen >= other.prefixlen
        and network.network_address in other
    )

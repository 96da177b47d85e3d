"""Let the networks that `boot.json` names through the firewall of the image, where it has one.

    agent.json  "firewall": {"enabled": true, "sets": ["networks", "submission"]}

`sets` are those of /etc/nftables.conf that hold the relay's networks; a port that has networks of its own in
relay.yaml keeps them.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from relay_agent import programs
from relay_agent.networks import Network, collapse, lies_in
from relay_agent.places import Places
from relay_agent.trouble import Trouble, wrong_plan

_TABLE = "inet relay"
_SETS = ("networks", "submission")


@dataclass(frozen=True)
class Plan:
    """What agent.json says about the firewall."""

    enabled: bool
    sets: Tuple[str, ...]


def read_plan(places: Places) -> Plan:
    """Read the plan of agent.json. Errors: Trouble `config-invalid`."""
    values = places.baked("firewall")
    if values is None:
        return Plan(enabled=True, sets=("networks",))
    try:
        plan = Plan(enabled=values["enabled"] is True, sets=tuple(values.get("sets", ())))
    except (KeyError, TypeError, AttributeError) as error:
        raise wrong_plan("firewall", f"{type(error).__name__} {error}") from None
    if not set(plan.sets) <= set(_SETS):
        raise wrong_plan("firewall", "`sets`")
    return plan


def allow(plan: Plan, networks: Sequence[str]) -> None:
    """Replace the relay's networks in the firewall, in one transaction of nftables.

    An image without a firewall has no table to put them in. Errors: Trouble `firewall`.
    """
    if not plan.enabled or not plan.sets:
        return
    members = collapse(ipaddress.ip_network(network) for network in networks)
    lines = []
    for name in plan.sets:
        for version in (4, 6):
            listed = ", ".join(str(network) for network in members if network.version == version)
            lines.append(f"flush set {_TABLE} {name}{version}")
            if listed:
                lines.append(f"add element {_TABLE} {name}{version} {{ {listed} }}")
    ended = programs.run(["nft", "-f", "-"], stdin="\n".join(lines) + "\n")
    if ended.returncode != 0:
        raise Trouble(
            "firewall",
            f"The firewall did not take the networks of `boot.json`: {_reason(ended)}",
            hint="`systemctl status nftables`; `nft list table inet relay`",
        )


def keep(plan: Plan, networks: Sequence[str]) -> bool:
    """Put the networks back when others are there, as after a start of nftables; True when there were.

    Errors: Trouble `firewall`.
    """
    if not plan.enabled or not plan.sets:
        return False
    sets = read_sets()
    if sets is not None and _holds(sets, plan, networks):
        return False
    allow(plan, networks)
    return sets is not None


def _holds(sets: Mapping[str, Sequence[str]], plan: Plan, networks: Sequence[str]) -> bool:
    wanted = collapse(ipaddress.ip_network(network) for network in networks)
    return all(
        collapse(networks_of([*sets.get(f"{name}4", ()), *sets.get(f"{name}6", ())])) == wanted
        for name in plan.sets
    )


def read_sets() -> Optional[Dict[str, List[str]]]:
    """Return who the firewall lets in, by set; None when there is no table `inet relay`."""
    try:
        ended = programs.run(["nft", "--json", "list", "table", "inet", "relay"])
        entries = json.loads(ended.stdout)["nftables"]
    except (Trouble, ValueError, KeyError):
        return None
    sets = [entry["set"] for entry in entries if isinstance(entry, dict) and "set" in entry]
    return {found["name"]: [_element(item) for item in found.get("elem", [])] for found in sets}


def _element(item: Any) -> str:
    if isinstance(item, dict) and "prefix" in item:
        return f"{item['prefix']['addr']}/{item['prefix']['len']}"
    if isinstance(item, dict) and "range" in item:
        return "-".join(item["range"])
    return str(item)


def networks_of(members: Iterable[str]) -> List[Network]:
    """Read networks, addresses and ranges, as nft and Postfix write them.

    nft joins neighbours to a range and leaves `/32` out; Postfix puts IPv6 addresses in brackets.
    """
    found: list[Any] = []
    for member in members:
        first, dash, last = member.replace("[", "").replace("]", "").partition("-")
        if dash:
            bounds: Any = (ipaddress.ip_address(first), ipaddress.ip_address(last))
            found += ipaddress.summarize_address_range(*bounds)
        else:
            found.append(ipaddress.ip_interface(first).network)
    return found


def not_covered(wanted: Iterable[Network], allowed: Iterable[Network]) -> List[Network]:
    """Return the networks that are not wholly inside the others together."""
    ours = collapse(allowed)
    return [network for network in wanted if not any(lies_in(network, other) for other in ours)]


def _reason(ended: programs.Ended) -> str:
    """Return nft's own reason: below it nft shows the line it is about, and carets under that."""
    for line in ended.stderr.splitlines():
        _, found, reason = line.partition("Error: ")
        if found:
            return reason
    return ended.last_line

"""Let the networks that `boot.json` names through the firewall of the image, where it has one.

    agent.json  "firewall": {"enabled": true, "sets": ["networks", "submission"]}

`sets` are those of /etc/nftables.conf that hold the relay's networks; a port that has networks of its own in
relay.yaml keeps them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Sequence, Tuple

from relay_agent import programs
from relay_agent.networks import collapse
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


def _reason(ended: programs.Ended) -> str:
    """Return nft's own reason: below it nft shows the line it is about, and carets under that."""
    for line in ended.stderr.splitlines():
        _, found, reason = line.partition("Error: ")
        if found:
            return reason
    return ended.last_line

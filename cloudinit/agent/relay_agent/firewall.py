"""Let the networks that `boot.json` names through the firewall of the image."""

from __future__ import annotations

import ipaddress
from typing import Sequence

from relay_agent import programs
from relay_agent.trouble import Trouble

_TABLE = "inet relay"


def allow(networks: Sequence[str]) -> None:
    """Replace the networks that may reach port 25, in one transaction of nftables.

    The sets are those of /etc/nftables.conf. Errors: Trouble `firewall`.
    """
    lines = []
    for version, name in ((4, "networks4"), (6, "networks6")):
        members = [item for item in networks if ipaddress.ip_network(item).version == version]
        lines.append(f"flush set {_TABLE} {name}")
        if members:
            lines.append(f"add element {_TABLE} {name} {{ {', '.join(members)} }}")
    ended = programs.run(["nft", "-f", "-"], stdin="\n".join(lines) + "\n")
    if ended.returncode != 0:
        raise Trouble(
            "firewall",
            f"The firewall did not take the networks of `boot.json`: {ended.last_line}",
            hint="`nft list table inet relay`",
        )

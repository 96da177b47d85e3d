"""Which packages the image gets and why, and what else the bake scripts have to know."""

from __future__ import annotations

import json
import re

from builder.config.model import RelayConfig
from builder.errors import ConfigError
from builder.releases import Release

# The bake installs without Recommends, so each one that is needed is named.
_REASONS = {
    "postfix": "the relay itself",
    "libsasl2-modules": "the mechanisms PLAIN and LOGIN; Postfix only suggests it, and cannot log in without",
    "ca-certificates": "the authorities that the provider's certificate is checked against",
    "python3-boto3": "the agent reads Secrets Manager with it; the distribution updates it",
    "nftables": "the firewall",
}


def packages(config: RelayConfig, release: Release) -> dict[str, str]:
    """Return each package with the reason for it. ConfigError for what is not a package's name."""
    problems = [
        f"`packages` has `{name}`, which is not the name of a package"
        for name in config.packages
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name)
    ]
    if problems:
        raise ConfigError("relay.yaml", problems)
    return {**_REASONS, **dict.fromkeys(config.packages, "named in relay.yaml")}


def render_install(config: RelayConfig, release: Release) -> dict[str, str]:
    """Return `packages.txt` and `install.json`."""
    wanted = packages(config, release)
    install = {
        "schema": 1,
        "release": release.name,
        "postfix_unit": release.postfix_unit,
        "enable": ["nftables.service", "postfix.service", "relay-agent.service"],
        "debconf": ["postfix postfix/main_mailer_type select No configuration"],
        "master_cf_edits": "usr/lib/relay/master.cf.edits",
        "packages": wanted,
    }
    return {
        "packages.txt": "".join(f"{name}\n" for name in wanted),
        "install.json": json.dumps(install, indent=2) + "\n",
    }

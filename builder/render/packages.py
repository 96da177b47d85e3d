"""Which packages the image gets and why, and what else the bake scripts have to know."""

from __future__ import annotations

import json

from builder.config.model import RelayConfig
from builder.releases import Release
from builder.render import dkim

# The bake installs without Recommends, so each one that is needed is named.
_REASONS = {
    "postfix": "the relay itself",
    "libsasl2-modules": "the mechanisms PLAIN and LOGIN; Postfix only suggests it, and cannot log in without",
    "ca-certificates": "the authorities that the provider's certificate is checked against",
    "python3-boto3": "the agent reads Secrets Manager with it; the distribution updates it",
    "nftables": "the firewall",
}


def packages(config: RelayConfig) -> dict[str, str]:
    """Return each package with the reason for it."""
    wanted = dict(_REASONS)
    if config.submission:
        wanted["sasl2-bin"] = "saslpasswd2, with which the agent writes the users of the submission port"
    if config.dkim:
        wanted[dkim.PACKAGE] = "signs mail with DKIM; the distribution keeps it patched"
    return {**wanted, **dict.fromkeys(config.packages, "named in relay.yaml")}


def render_install(config: RelayConfig, release: Release) -> dict[str, str]:
    """Return `packages.txt` and `install.json`."""
    wanted = packages(config)
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

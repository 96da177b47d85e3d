"""Configurations that several render tests use, and the expected files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from builder import assets
from builder.config.model import BootConfig, BootUpstream, RelayConfig
from builder.presets import preset_names as preset_names
from builder.releases import get_release
from builder.render import render, render_boot
from builder.render.bake import render_bake_seed

EXPECTED = Path(__file__).parent / "data" / "expected"
EXPECTED_SAMPLES = ("ses-debian-12", "ses-ubuntu-20.04", "ses-ubuntu-26.04")
_COPIED = re.compile(r"root/usr/(lib/relay/relay_agent|sbin)/.*|root/etc/(systemd|cloud)/.*")

# What a preset needs beside its name.
NEEDS: dict[str, dict[str, Any]] = {
    "ses": {"region": "us-east-1"},
    "mailgun": {"region": "eu"},
    "sparkpost": {"region": "us"},
    "custom": {"upstream": {"host": "smtp.example.com"}},
}

_KEPT = ["ours.example", "news.example", "letters.example", "office365.example"]

# A relay with all that relay.yaml can ask for; what a probe may and may not do then follows from it.
EVERYTHING: dict[str, Any] = {
    "preset": "ses",
    "region": "us-east-1",
    "fallback": {"preset": "ses", "region": "eu-west-1"},
    "routes": [
        {"name": "news", "preset": "sendgrid", "sender_domains": ["news.example"]},
        {"name": "partner", "preset": "mailgun", "region": "us", "recipient_domains": ["partner.example"]},
        {
            "name": "letters",
            "preset": "ses",
            "region": "us-east-1",
            "secret": "relay/letters",
            "sender_domains": ["letters.example"],
        },
    ],
    "access": {
        "senders": {"rules": [{"pattern": "evil.example", "kind": "domain", "action": "reject"}]},
        "recipients": {"rules": [{"pattern": "blocked.example", "kind": "domain", "action": "reject"}]},
        "sender_domains": [{"networks": ["10.0.0.0/8"], "domains": ["office.example"]}],
    },
    "dkim": {"keys": [{"domain": "ours.example", "selector": "relay", "secret": "relay/dkim"}]},
    "submission": {"secret": "relay/users", "certificate": "self_signed"},
    "clients": {"connections": 20, "messages_per_minute": 100},
    "firewall": {"management_networks": ["10.9.0.0/16"]},
    "quota": {"messages_per_second": 20, "share": "node"},
    "hygiene": {
        "strip_received": True,
        "strip_client_headers": True,
        "configuration_set": "marketing",
        "set_headers": {"X-Relay": "yes"},
        "sender_rewrite": {"address": "account@ours.example", "keep": _KEPT},
    },
}


# The same with a provider that is logged in to by OAuth: its bake also compiles the SASL mechanism.
WITH_OAUTH: dict[str, Any] = {
    **EVERYTHING,
    "routes": [
        *EVERYTHING["routes"],
        {"name": "office", "preset": "microsoft365", "sender_domains": ["office365.example"]},
    ],
}


def config_of(preset: str, **more: Any) -> RelayConfig:
    """Return a configuration of a preset with what it needs."""
    return RelayConfig.model_validate({"preset": preset, **NEEDS.get(preset, {}), **more})


def rendered(preset: str = "ses", release: str = "debian-12", **more: Any) -> dict[str, str]:
    """Render a preset for a release."""
    return render(config_of(preset, **more), get_release(release))


def parameters(main_cf: str) -> dict[str, str]:
    """Read main.cf: comments and empty lines left out."""
    lines = [line for line in main_cf.splitlines() if line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def expected_files(sample: str) -> dict[str, str]:
    """Render a sample, `PRESET-RELEASE`; what is copied from cloudinit/ as it is is left out."""
    preset, _, release = sample.partition("-")
    return {path: text for path, text in rendered(preset, release).items() if not _COPIED.fullmatch(path)}


# Each kind of user data that is made: what a launched instance gets, and what the build VM of a bake gets.
USER_DATA = ("boot", "boot with everything", "bake")
_PEM = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"


def user_data(kind: str, release: str) -> str:
    """Render one of USER_DATA for a release."""
    if kind == "boot":
        return rendered("ses", release)["boot/user-data"]
    if kind == "boot with everything":
        return render_boot(
            BootConfig(secret="relay/ses", upstream=BootUpstream(port=2525, ca_pem=_PEM)),
            hosts={"smtp.example.com": "10.0.2.2"},
            ssh_authorized_keys=["ssh-ed25519 AAAA me"],
            extra={"timezone": "UTC"},
        )
    seed = render_bake_seed(
        rendered("ses", release)["packages.txt"].split(),
        install_script=assets.read("packer", "scripts/install.sh").encode(),
        public_key="ssh-ed25519 AAAA bake",
        instance_id="bake-1",
    )
    return seed["seed/user-data"]


def write_expected() -> None:
    """Write the expected files anew: python -m tests.rendered."""
    for sample in EXPECTED_SAMPLES:
        shutil.rmtree(EXPECTED / sample, ignore_errors=True)
        for path, text in expected_files(sample).items():
            target = EXPECTED / sample / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)


if __name__ == "__main__":
    write_expected()

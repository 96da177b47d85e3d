"""The NoCloud seed that tells a guest who it is, and the login for the person or program that tests it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from builder import process
from builder.errors import BuilderError

LOGIN = "probe"
"""The user that `add_login` creates; it lives on the overlay only."""

_HEADER = "#cloud-config"


def add_login(user_data: str, public_key: str, *, name: str = LOGIN) -> str:
    """Return the user data with one more user: key only, sudo without a password.

    Errors: BuilderError when it is not a cloud-config (a script cannot carry a user).
    """
    first, _, rest = user_data.partition("\n")
    if user_data.strip() and first.strip() != _HEADER:
        raise BuilderError(
            f"The user data begins with `{first[:40]}`, so no login can be added to it",
            hint=f"Write it as cloud-config, with `{_HEADER}` as its first line",
        )
    config: dict[str, Any] = yaml.safe_load(rest) or {}
    login = {
        "name": name,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": True,
        "ssh_authorized_keys": [public_key.strip()],
    }
    config["users"] = [*(config.get("users") or []), login]
    return f"{_HEADER}\n{yaml.safe_dump(config, sort_keys=False, width=200)}"


def make_key(path: Path) -> str:
    """Create an ed25519 key pair without a passphrase and return its public half."""
    ssh_keygen = process.find_tool(
        "ssh-keygen", to="log in to the guest", install="sudo apt install openssh-client"
    )
    process.run([ssh_keygen, "-q", "-t", "ed25519", "-N", "", "-C", "builder", "-f", path])
    return path.with_name(path.name + ".pub").read_text(encoding="utf-8")


def write_seed(iso: Path, *, user_data: str, instance_id: str, work: Path) -> None:
    """Write a NoCloud seed: an ISO with the label `cidata`. `work` gets the four files.

    network-config and vendor-data are empty rather than missing: cloud-init 24.3 and newer spends time
    looking for a missing one. Source: cloud-init's documentation, NoCloud.
    """
    xorriso = process.find_tool("xorriso", to="write the seed of a guest", install="sudo apt install xorriso")
    files = {
        "user-data": user_data,
        "meta-data": f"instance-id: {instance_id}\n",
        "network-config": "",
        "vendor-data": "",
    }
    work.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    argv: list[str | Path] = [xorriso, "-as", "mkisofs", "-quiet", "-o", iso, "-V", "cidata", "-J", "-r"]
    process.run(argv + [work / name for name in files])

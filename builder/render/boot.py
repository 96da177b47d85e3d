"""Render what an instance is told at launch, and check that it fits where it is sent."""

from __future__ import annotations

import gzip
import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any

from builder.config.model import BootConfig
from builder.errors import BuilderError
from builder.render.templates import one_line, render_template

# Before base64. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html
EC2_LIMIT_BYTES = 16384
_OURS = ("write_files", "manage_etc_hosts", "ssh_authorized_keys")


def render_boot(
    boot: BootConfig,
    *,
    hosts: Mapping[str, str] | None = None,
    ssh_authorized_keys: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Return an instance's user data: a cloud-config that writes `/etc/relay/boot.json`.

    `hosts` maps host names to addresses for `/etc/hosts` (a stand-in in the provider's place); the keys are
    for the image's default user; `extra` are further cloud-config keys. Errors: BuilderError for what cannot
    be written safely.
    """
    extra = extra or {}
    for key in extra:
        if key in _OURS or not key.replace("_", "").isalpha():
            raise BuilderError(f"`{key}` cannot be an extra key of the boot user data")
    for key in ssh_authorized_keys:
        if "PRIVATE KEY" in one_line(key, name="An SSH key"):
            raise BuilderError("A private SSH key was given where the public one belongs")
    return render_template(
        "boot.yaml.j2",
        boot_json=json.dumps(boot.to_json_dict(), indent=2) + "\n",
        hosts="".join(_hosts_line(name, address) for name, address in (hosts or {}).items()),
        ssh_authorized_keys=list(ssh_authorized_keys),
        extra=extra,
    )


def user_data_as_sent(text: str, *, limit_bytes: int = EC2_LIMIT_BYTES) -> bytes:
    """Return user data as it is sent: as it is, or gzipped (which cloud-init unpacks) when it is too long.

    Errors: BuilderError when it is too long even so.
    """
    raw = text.encode()
    if len(raw) <= limit_bytes:
        return raw
    packed = gzip.compress(raw, mtime=0)
    if len(packed) <= limit_bytes:
        return packed
    raise BuilderError(
        f"The boot user data is {len(raw)} bytes, {len(packed)} when compressed; EC2 takes {limit_bytes}",
        hint="Shorten `networks`, or give `upstream.ca_pem` only the one certificate that is needed",
    )


def _hosts_line(name: str, address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise BuilderError(f"`{address}` is not an IP address; `/etc/hosts` needs one for `{name}`") from None
    if not name.replace(".", "").replace("-", "").isalnum():
        raise BuilderError(f"`{name}` is not a host name")
    return f"{address} {name}\n"

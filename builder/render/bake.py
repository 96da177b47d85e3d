"""Render the NoCloud seed of the build VM: how Packer gets in, and packages that install while it boots."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence

import jinja2

from builder import assets

# A tmpfs, so that nothing of the bake can stay in the image.
BAKE_DIR = "/run/relay-bake"


def render_bake_seed(
    packages: Sequence[str], *, install_script: bytes, public_key: str, instance_id: str
) -> dict[str, str]:
    """Return the four files of a NoCloud seed, `seed/user-data` first among them.

    `install_script` is the template's `scripts/install.sh`, which starts with the boot.

    `network-config` and `vendor-data` are there, nearly empty, because cloud-init 24.3 and newer waits for
    missing ones. The same user data serves on EC2.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(assets.folder("cloudinit")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  it is YAML; every value goes through tojson
    )
    user_data = environment.get_template("bake.yaml.j2").render(
        dir=BAKE_DIR,
        public_key=public_key,
        write_packages=_write_file(f"{BAKE_DIR}/packages.txt", ("\n".join(packages) + "\n").encode()),
        write_script=_write_file(f"{BAKE_DIR}/install.sh", install_script),
    )
    return {
        "seed/user-data": user_data,
        "seed/meta-data": f"instance-id: {instance_id}\nlocal-hostname: relay-bake\n",
        "seed/network-config": _NETWORK_CONFIG,
        "seed/vendor-data": "#cloud-config\n{}\n",
    }


# DHCP on whatever the machine's one network card is called.
_NETWORK_CONFIG = """\
version: 2
ethernets:
  primary:
    match: {name: "e*"}
    dhcp4: true
"""


def _write_file(path: str, content: bytes) -> str:
    """Return a shell command that writes a file; packed, because EC2 takes 16 KB of user data at most."""
    packed = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    return f"echo {packed} | base64 -d | gunzip > {path}"

"""`builder launch`: start a relay from an image under QEMU, and say where it listens."""

from __future__ import annotations

import re
from pathlib import Path

import click

from builder.cli.instances import report, wait_ready
from builder.cli.options import (
    accelerator_option,
    complete_image,
    find_image,
    instances_folder,
    json_option,
    read_text,
)
from builder.cli.verbs import Verb
from builder.errors import BuilderError

# sshd(8), "AUTHORIZED_KEYS FILE FORMAT", without options before the type.
_PUBLIC_KEY = re.compile(r"(?:ssh|ecdsa|sk)-\S+ [A-Za-z0-9+/]+={0,2}(?: [^\n]*)?")


@click.command(
    cls=Verb,
    example="builder launch ses-debian-12 --smtp-port 2525 --imds-endpoint http://10.0.2.2:1338",
)
@click.argument("image", shell_complete=complete_image)
@click.option(
    "--smtp-port", type=click.IntRange(0, 65535), default=0, help="On 127.0.0.1; 0 takes a free one."
)
@click.option(
    "--health-port", type=click.IntRange(0, 65535), default=0, help="On 127.0.0.1; 0 takes a free one."
)
@click.option("--secret", metavar="NAME", help="The secret's name; without it the one baked in.")
@click.option("--region", help="The region of the secret; without it the one baked in.")
@click.option("--hostname", help="The relay's own name.")
@click.option("--network", "networks", multiple=True, help="Who may relay; may be repeated.")
@click.option(
    "--fleet-size",
    metavar="N|auto_scaling",
    help="How many relays share the account's rate; without it as baked.",
)
@click.option(
    "--endpoint", metavar="URL", help="Secrets Manager, as the guest reaches it (this machine is 10.0.2.2)."
)
@click.option("--imds-endpoint", metavar="URL", help="What gives the guest its role, in place of EC2's own.")
@click.option(
    "--ssh-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A public key to log in with, as `probe`.",
)
@click.option(
    "--memory", "memory_mib", type=click.IntRange(256), default=1024, show_default=True, help="In MiB."
)
@click.option("--cpus", type=click.IntRange(1), default=2, show_default=True, help="Virtual processors.")
@accelerator_option
@click.option(
    "--wait",
    "wait_seconds",
    type=click.IntRange(0),
    default=300,
    show_default=True,
    help="Seconds to wait until it is ready.",
)
@json_option
def command(
    image: str,
    *,
    smtp_port: int,
    health_port: int,
    ssh_key: Path | None,
    memory_mib: int,
    cpus: int,
    accelerator: str | None,
    wait_seconds: int,
    as_json: bool,
    **boot: str | tuple[str, ...] | None,
) -> None:
    """Start a relay from IMAGE, a name or a file, and print where it listens.

    It runs until `builder instances stop`. It takes mail once it has fetched and proved its credential.
    A later bake, or the loss of the image, does not touch it.
    """
    from builder.config import boot_config
    from builder.launch import HEALTH_PORT, SMTP_PORT, SSH_PORT, announce, choose_accelerator
    from builder.launch.instances import launch_instance
    from builder.render import render_boot

    chosen = choose_accelerator(accelerator)
    announce(chosen)
    instance = launch_instance(
        find_image(image),
        user_data=render_boot(boot_config({name: value or None for name, value in boot.items()})),
        folder=instances_folder(),
        accelerator=chosen,
        forward={SMTP_PORT: smtp_port, HEALTH_PORT: health_port, SSH_PORT: 0},
        public_key=_public_key(ssh_key) if ssh_key else None,
        memory_mib=memory_mib,
        cpus=cpus,
    )
    report(instance, as_json)
    if wait_seconds:
        wait_ready(instance, seconds=wait_seconds)


def _public_key(path: Path) -> str:
    """Read a public key: one line that begins with its type. A private one would end up in the user data."""
    text = read_text(path).strip()
    if _PUBLIC_KEY.fullmatch(text):
        return text
    beside = path.with_name(f"{path.name}.pub")
    raise BuilderError(
        f"`{path}` is not a public key: one line such as `ssh-ed25519 AAAA… me` is expected",
        hint=f"Give `--ssh-key {beside}`" if beside.exists() else "Make one with `ssh-keygen -t ed25519`",
    )

"""`builder init`: write a commented relay.yaml."""

from __future__ import annotations

from pathlib import Path

import click

from builder import console
from builder.cli.options import DEFAULT_CONFIG, preset_option
from builder.cli.verbs import Verb


@click.command(cls=Verb, example="builder init --preset ses --region eu-west-1 --hostname relay.example.com")
@preset_option("The mail provider; `builder presets` lists them.")
@click.option("--region", help="The provider's region.")
@click.option("--hostname", help="The relay's own name.")
@click.option("--network", "networks", multiple=True, help="Who may relay; may be repeated.")
@click.option("--secret", metavar="NAME", help="The secret's name in Secrets Manager.")
@click.option("--host", help="The provider's SMTP host, for preset `custom`.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="The file to write; `-` prints it.",
)
def command(
    preset: str,
    *,
    region: str | None,
    hostname: str | None,
    networks: tuple[str, ...],
    secret: str | None,
    host: str | None,
    out: Path,
) -> None:
    """Write a relay.yaml in which every key is explained; what is not given is an example value.

    It asks nothing, and leaves a file alone that is there already.
    """
    from builder.init import relay_yaml, write_relay_yaml

    text = relay_yaml(preset, region=region, hostname=hostname, networks=networks, secret=secret, host=host)
    if str(out) == "-":
        console.out(text.rstrip())
        return
    write_relay_yaml(out, text)
    config = "" if out == DEFAULT_CONFIG else f" --config {out}"
    console.say(f"Wrote `{out}`. Next: read it, then `builder render{config}` or `builder bake{config}`")

"""`builder secret`: the provider's credential in Secrets Manager; no value is ever printed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from builder import console
from builder.cli.options import ConfigFlags, ambient_region, config_options, json_option
from builder.cli.verbs import Verb
from builder.errors import BuilderError

if TYPE_CHECKING:
    from builder.config import RelayConfig

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Store, describe and try the provider's credential in Secrets Manager; no value is ever printed."""


def endpoint_option(function: F) -> F:
    """Add `--endpoint`."""
    option = click.option("--endpoint", metavar="URL", help="Another Secrets Manager than AWS's own.")
    return option(function)


@command.command(cls=Verb, example="builder secret put --preset ses --file credential.json")
@config_options
@endpoint_option
@click.option(
    "--file",
    type=click.File(encoding="utf-8"),
    help="A file with the JSON object, `-` for stdin; without it each field is asked for.",
)
def put(flags: ConfigFlags, endpoint: str | None, file: Any) -> None:
    """Store the credential as the secret's new current version.

    Values are read from a file, stdin or the keyboard, never from the command line. A running relay finds the
    new version by itself, tries it, and only then uses it.
    """
    from builder import secret as secrets

    config = flags.read()
    given = secrets.parse(file.read(), source=file.name) if file else _ask(config)
    region = region_of(config)
    version = secrets.put(config, given, region=region, endpoint=endpoint)
    console.out(version)
    console.say(f"Stored in `{config.secret_name}` in {region}. Next: `builder secret check`")


@command.command(cls=Verb, example="builder secret show --preset ses --region eu-west-1")
@config_options
@endpoint_option
@json_option
def show(flags: ConfigFlags, endpoint: str | None, as_json: bool) -> None:
    """Describe the secret: its version, its date and the names of its fields."""
    from builder import secret as secrets

    config = flags.read()
    described = secrets.show(config, region=region_of(config), endpoint=endpoint).to_json_dict()
    if as_json:
        console.out_json(described)
        return
    fields = {**described, "fields": ", ".join(described["fields"])}
    console.out_fields(fields)


@command.command(cls=Verb, example="builder secret check --config relay.yaml")
@config_options
@endpoint_option
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificates to trust in place of the system's, PEM.",
)
def check(flags: ConfigFlags, endpoint: str | None, ca: Path | None) -> None:
    """Log in to the provider with the secret, over verified TLS; no mail is sent."""
    from builder import secret as secrets

    config = flags.read()
    region = region_of(config)
    console.out(
        secrets.check(config, region=region, endpoint=endpoint, ca_pem=ca.read_text() if ca else None)
    )


def region_of(config: RelayConfig) -> str:
    """Return the region of Secrets Manager: the configuration's, the environment's, or ours."""
    return config.aws_region or ambient_region()


def _ask(config: RelayConfig) -> dict[str, str]:
    """Ask for each field of the preset's first shape; what is typed is not shown."""
    if not sys.stdin.isatty():
        raise BuilderError(
            "Nobody is here to type the credential", hint="Give it with `--file FILE`, or `--file -`"
        )
    shape = config.provider.secret_shapes[0]
    console.say(f"How to get it: `builder presets {config.preset}`")
    return {
        field: click.prompt(f"{field} ({meaning})", hide_input=True, err=True)
        for field, meaning in shape.fields.items()
    }

"""`builder secret`: the provider's credential in Secrets Manager; no value is ever printed."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from builder import console
from builder.cli.options import (
    DEFAULT_CONFIG,
    ConfigFlags,
    ambient_region,
    config_options,
    json_option,
    read_text,
)
from builder.cli.verbs import Group, Verb

if TYPE_CHECKING:
    from builder.config import ProviderChoice

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=Group)
def command() -> None:
    """Store, describe and try the provider's credential in Secrets Manager; no value is ever printed."""


def secret_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the secret's name, the configuration's flags and `--endpoint`."""
    endpoint = click.option("--endpoint", metavar="URL", help="Another Secrets Manager than AWS's own.")
    return click.argument("name", metavar="[SECRET]", required=False)(config_options(endpoint(function)))


@command.command(cls=Verb, example="builder secret put relay/ses --file credential.json")
@secret_options
@click.option(
    "--file",
    type=click.File(encoding="utf-8"),
    help="A file with the JSON object, `-` for stdin; at a terminal each field is asked for without it.",
)
def put(flags: ConfigFlags, name: str | None, endpoint: str | None, file: Any) -> None:
    """Store the credential as the secret's new current version.

    Values are read from a file, stdin or the keyboard, never from the command line. A running relay finds the
    new version by itself, tries it, and only then uses it.
    """
    from builder import secret as secrets

    config, region = find(flags, name)
    if file is None and not sys.stdin.isatty():
        file = sys.stdin
    given = _read(file, config) if file else _ask(config)
    version = secrets.put(config, given, region=region, endpoint=endpoint)
    console.out(version)
    console.say(f"Stored in `{config.secret_name}` in {region}. Next: `builder secret check`")


@command.command(cls=Verb, example="builder secret show relay/ses --region eu-west-1")
@secret_options
@json_option
def show(flags: ConfigFlags, name: str | None, endpoint: str | None, as_json: bool) -> None:
    """Describe the secret: its version, its date and the names of its fields."""
    from builder import secret as secrets

    config, region = find(flags, name)
    described = secrets.show(config, region=region, endpoint=endpoint).to_json_dict()
    if as_json:
        console.out_json(described)
        return
    fields = {**described, "fields": ", ".join(described["fields"])}
    console.out_fields(fields)


@command.command(cls=Verb, example="builder secret check --config relay.yaml")
@secret_options
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificates to trust in place of the system's, PEM.",
)
def check(flags: ConfigFlags, name: str | None, endpoint: str | None, ca: Path | None) -> None:
    """Log in to the provider with the secret, over verified TLS; no mail is sent."""
    from builder import secret as secrets

    config, region = find(flags, name)
    ca_pem = read_text(ca) if ca else None
    console.out(secrets.check(config, region=region, endpoint=endpoint, ca_pem=ca_pem))


def find(flags: ConfigFlags, name: str | None) -> tuple[ProviderChoice, str]:
    """Return the provider whose secret is meant, and the region of Secrets Manager.

    A name may be that of any provider in relay.yaml, or `relay/PRESET`, which says the preset as well.
    """
    from builder.presets import preset_names

    preset = (name or "").removeprefix("relay/")
    if (
        flags.config is None
        and not flags.keys["preset"]
        and not DEFAULT_CONFIG.exists()
        and preset in preset_names()
    ):
        flags = dataclasses.replace(flags, keys={**flags.keys, "preset": preset})
    config = flags.read()
    region = config.aws_region or ambient_region()
    if name is None:
        return config, region
    for _role, choice in config.upstreams():
        if choice.secret_name == name:
            return choice, region
    return config.model_copy(update={"secret": name}), region


def _read(file: Any, config: ProviderChoice) -> dict[str, str]:
    """Read the JSON object from a file or stdin; no error repeats anything of it."""
    from builder import secret as secrets
    from builder.errors import ConfigError

    source, hint = getattr(file, "name", "stdin"), f"`builder presets {config.preset}` shows the fields"
    try:
        text = file.read()
    except UnicodeDecodeError:
        raise ConfigError(source, ["this is not UTF-8 text"], hint=hint) from None
    return secrets.parse(text, source=source, hint=hint)


def _ask(config: ProviderChoice) -> dict[str, str]:
    """Ask for each field of the preset's first shape; what is typed is not shown."""
    shape = config.provider.secret_shapes[0]
    console.say(f"How to get it: `builder presets {config.preset}`")
    return {
        field: click.prompt(f"{field} ({meaning})", hide_input=True, err=True)
        for field, meaning in shape.fields.items()
    }

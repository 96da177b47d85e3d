"""`builder secret`: what a relay reads from Secrets Manager; no value is ever printed."""

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
    from builder.secret_kinds import Kind

F = TypeVar("F", bound=Callable[..., Any])


@click.group(
    cls=Group,
    example="builder secret put relay/ses --file credential.json\nbuilder secret check relay/ses",
)
def command() -> None:
    """Store, describe and try what a relay reads from Secrets Manager; no value is ever printed.

    The provider's credential, and what else relay.yaml names: users of the submission port, keys for DKIM.
    """


def secret_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the secret's name, the configuration's flags and `--endpoint`."""
    endpoint = click.option("--endpoint", metavar="URL", help="Another Secrets Manager than AWS's own.")
    return click.argument("name", metavar="[SECRET]", required=False)(config_options(endpoint(function)))


@command.command(cls=Verb, example="builder secret put relay/ses --file credential.json")
@secret_options
@click.option(
    "--file",
    type=click.File(encoding="utf-8"),
    help="The JSON object, or a DKIM key in PEM; `-` is stdin. Without it each field is asked for.",
)
def put(flags: ConfigFlags, name: str | None, endpoint: str | None, file: Any) -> None:
    """Store a credential, users or a key as the secret's new current version.

    Values are read from a file, stdin or the keyboard, never from the command line. A running relay finds the
    new version by itself, tries it, and only then uses it.
    """
    from builder import secret as secrets
    from builder.secret_kinds import Credential

    kind, region = find(flags, name)
    if file is None and not sys.stdin.isatty():
        file = sys.stdin
    given = _read(file, kind) if file else _ask(kind)
    version = secrets.put(kind, given, region=region, endpoint=endpoint)
    console.out(version)
    following = "check" if isinstance(kind, Credential) else "show"
    console.say(f"Stored in `{kind.name}` in {region}. Next: `builder secret {following} {kind.name}`")


@command.command(cls=Verb, example="builder secret show relay/ses --region eu-west-1")
@secret_options
@json_option
def show(flags: ConfigFlags, name: str | None, endpoint: str | None, as_json: bool) -> None:
    """Describe the secret: its version, its date and the names of its fields."""
    from builder import secret as secrets

    kind, region = find(flags, name)
    described = secrets.show(kind, region=region, endpoint=endpoint).to_json_dict()
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

    kind, region = find(flags, name)
    ca_pem = read_text(ca) if ca else None
    console.out(secrets.check(kind, region=region, endpoint=endpoint, ca_pem=ca_pem))


def find(flags: ConfigFlags, name: str | None) -> tuple[Kind, str]:
    """Return the secret that is meant, and the region of Secrets Manager: that of its ARN, if it has one.

    A name may be that of any secret in relay.yaml, or `relay/PRESET`, which says the preset as well; another
    one stands for the provider's credential under that name.
    """
    from builder.config import arn_region
    from builder.presets import preset_names
    from builder.secret_kinds import Credential, kinds_of

    preset = (name or "").removeprefix("relay/")
    if (
        flags.config is None
        and not flags.keys["preset"]
        and not DEFAULT_CONFIG.exists()
        and preset in preset_names()
    ):
        flags = dataclasses.replace(flags, keys={**flags.keys, "preset": preset})
    config = flags.read()
    kinds = (kind for kind in kinds_of(config) if name is None or kind.name == name)
    kind = next(kinds, None) or Credential(config.model_copy(update={"secret": name}))
    return kind, arn_region(kind.name) or config.aws_region or ambient_region()


def _read(file: Any, kind: Kind) -> dict[str, Any]:
    """Read a secret from a file or stdin; no error repeats anything of it."""
    from builder.errors import ConfigError

    source = getattr(file, "name", "stdin")
    try:
        text = file.read().removeprefix("\ufeff")  # Windows writes a byte order mark
    except UnicodeDecodeError:
        raise ConfigError(source, ["this is not UTF-8 text"], hint=kind.hint) from None
    return kind.parse(text, source=source)


def _ask(kind: Kind) -> dict[str, str]:
    """Ask for each field of the preset's first shape; what is typed is not shown."""
    from builder.errors import BuilderError
    from builder.secret_kinds import Credential

    if not isinstance(kind, Credential):
        raise BuilderError(f"The secret `{kind.name}` holds {kind.what}, more than one types", hint=kind.hint)
    shape = kind.choice.secret_shapes[0]
    console.say(f"How to get it: `builder presets {kind.choice.preset}`")
    return {
        field: click.prompt(f"{field} ({meaning})", hide_input=True, err=True)
        for field, meaning in shape.fields.items()
    }

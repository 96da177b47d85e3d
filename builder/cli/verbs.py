"""The table of verbs, and the group that loads a verb's module when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click

# Verb → what it does, in the order of the work. Each is `command` in the module of its name.
VERBS: Mapping[str, str] = {
    "demo": "Bake, boot, fetch a secret, relay a mail: all on this machine.",
    "init": "Write a commented relay.yaml.",
    "presets": "List the mail providers, or show one with its sources.",
    "render": "Write the files that would go in; needs no tool, no account.",
    "bake": "Bake an image, boot it fresh and let it relay mail.",
    "base": "List base images, download one, or build one from packages.",
    "images": "List what was baked, from what, and whether it was verified.",
    "verify": "Boot an image fresh and run every check.",
    "launch": "Start a relay from an image and print where it listens.",
    "instances": "List, stop, start and delete the relays launched here.",
    "secret": "Store, describe and try the credential; it is never printed.",
    "conformance": "Try every fault that a relay meets on a private Postfix here.",
    "doctor": "Examine this machine, and say what mends what is missing.",
    "completion": "Print the script that completes commands in a shell.",
}


class WithExample(click.Command):
    """A command whose help ends with an example that can be pasted."""

    def __init__(self, *, example: str, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example as it is: no line of it is wrapped."""
        with formatter.section("Example"):
            for line in self.example.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Verb(WithExample):
    """A command without subcommands."""


class Nearest(click.Group):
    """A group that names the nearest command for one that is not there, and cuts no line of its help."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command when there is no such command."""
        names = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in names:
            near = difflib.get_close_matches(args[0], names, n=1)
            mend = f"Did you mean `{near[0]}`?" if near else f"There are {', '.join(names)}."
            ctx.fail(f"There is no command `{args[0]}`. {mend}")
        return super().resolve_command(ctx, args)

    def describe_commands(self, ctx: click.Context) -> list[tuple[str, str]]:
        """Return each command with its first sentence."""
        return [(name, each.get_short_help_str(limit=200)) for name, each in self.commands.items()]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in the order of the module, each sentence whole."""
        with formatter.section("Commands"):
            formatter.write_dl(self.describe_commands(ctx))


class Group(WithExample, Nearest):
    """A verb with subcommands."""


class Verbs(Nearest):
    """A group whose commands are modules of this package; `--help` imports none of them."""

    def __init__(self, *, verbs: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the verbs in the order of the table."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one verb; None when there is no such verb."""
        if cmd_name not in self.verbs:
            return None
        module = importlib.import_module(f"builder.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def describe_commands(self, ctx: click.Context) -> list[tuple[str, str]]:
        """Return the verbs from the table alone."""
        return list(self.verbs.items())

"""`builder completion`: the script that completes commands and options in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from builder import console
from builder.cli.verbs import Verb
from builder.errors import BuilderError


@click.command(cls=Verb, example='eval "$(builder completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes builder's commands, options and names in SHELL."""
    made = get_completion_class(shell)
    if made is None:
        raise BuilderError(f"There is no completion for `{shell}`")
    console.out(made(ctx.find_root().command, {}, "builder", "_BUILDER_COMPLETE").source().rstrip())

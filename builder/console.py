"""Everything that is printed: progress on stderr, data on stdout, colour only where it is wanted."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from traceback import format_exception
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from builder.errors import BuilderError

# `NO_COLOR` and a dumb terminal are honoured by rich itself.
_err = Console(stderr=True, highlight=False, soft_wrap=True)
_depth = 0


def say(message: str) -> None:
    """Print one line of progress."""
    _err.print("  " * _depth + escape(message))


def warn(message: str) -> None:
    """Print a warning, with what to do about it in the message."""
    _err.print(f"[yellow]warning:[/] {escape(message)}")


def fail(error: BuilderError) -> None:
    """Print an error and, after a blank line, its hint."""
    _err.print(f"[red]error:[/] {escape(error.message)}")
    if error.hint:
        _err.print(f"\n[cyan]hint:[/] {escape(error.hint)}")


def out(text: str) -> None:
    """Write text to stdout as it is: data that one can pipe."""
    click.echo(text)


def out_json(value: Any) -> None:
    """Write one JSON document to stdout."""
    click.echo(json.dumps(value, indent=2, default=str))


def out_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to stdout; each cell is text. Without a terminal no cell is broken: one can grep."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        # The first names the row: broken in two it could not be copied.
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    _print_whole(table)


def out_fields(fields: Mapping[str, str]) -> None:
    """Write `name  value` lines to stdout."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, escape(value))
    _print_whole(table)


def _print_whole(table: Table) -> None:
    """Print a table to stdout: as wide as the terminal, or without one as wide as it must be."""
    if sys.stdout is not None and sys.stdout.isatty():  # None: `builder presets >&-`
        Console(highlight=False).print(table)
        return
    text = io.StringIO()
    Console(file=text, highlight=False, width=100_000).print(table)
    click.echo("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def format_seconds(seconds: float) -> str:
    """Write a duration as people read it: `0.4 s`, `41 s`, `3 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def _fit(text: str) -> str:
    """Cut a spinner's line to the terminal, less the spinner: one that wraps is drawn anew at each turn."""
    room = max(_err.width - 4, 20)
    return escape(text if len(text) <= room else text[: room - 1] + "…")


class Step:
    """A running step: `note` says what it is doing now, `seconds` how long it has taken so far."""

    def __init__(self, title: str, status: Any) -> None:
        self.title = title
        self._status = status
        self._started = time.monotonic()
        self._note = ""

    @property
    def seconds(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self._started

    def note(self, text: str) -> None:
        """Say what is happening now; a repeated note is shown once."""
        if text == self._note:
            return
        self._note = text
        if self._status is not None:
            self._status.update(_fit(f"{self.title}: {text}"))
        else:
            say(f"  {format_seconds(self.seconds):>10}  {text}")


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Show a step while it runs and how long it took; nested steps are indented."""
    global _depth
    # A spinner only on a terminal, and only for the outermost step: rich has one live display.
    live = _err.status(_fit(title)) if _err.is_terminal and _depth == 0 else None
    current = Step(title, live)
    if live is not None:
        live.start()
    else:
        say(f"{title} …")
    _depth += 1
    try:
        yield current
    except BaseException:
        _depth -= 1
        if live is not None:
            live.stop()
        say(f"✗ {title} ({format_seconds(current.seconds)})")
        raise
    _depth -= 1
    if live is not None:
        live.stop()
    say(f"✓ {title} ({format_seconds(current.seconds)})")


def traceback(error: BaseException) -> None:
    """Print an error's traceback to stderr, for `--debug`."""
    lines = format_exception(error)
    _err.print("".join(lines), markup=False, end="")

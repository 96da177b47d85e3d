"""`builder presets`: the providers, or one with its limits, its sources and how to get the credential."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from builder import console
from builder.cli.options import json_option, presets_beginning
from builder.cli.verbs import Verb


@click.command(cls=Verb, example="builder presets\nbuilder presets ses --sources")
@click.argument("name", required=False, shell_complete=lambda _ctx, _param, begun: presets_beginning(begun))
@click.option("--sources", is_flag=True, help="Show where each value was read, and when.")
@json_option
def command(name: str | None, sources: bool, as_json: bool) -> None:
    """List the mail providers, or show the one called NAME."""
    from builder.preset_view import describe, presets_table
    from builder.presets import load_preset

    if name is None:
        rows = presets_table()
        if as_json:
            console.out_json(rows)
        else:
            _table(rows, ("preset", "provider", "host", "ports", "message", "recipients"))
        return
    preset = describe(load_preset(name), sources=sources)
    if as_json:
        console.out_json(preset)
        return
    _show(preset)
    if sources:
        console.out("\nWhere each value was read")
        _table(preset["sources"], ("key", "value", "date", "url", "remark"))


def _table(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    console.out_table([name.upper() for name in columns], [[row[name] for name in columns] for row in rows])


def _show(preset: Mapping[str, Any]) -> None:
    console.out(f"{preset['title']}: {preset['summary']}\n")
    console.out_fields(dict(_facts(preset)))
    console.out(f"\nHow to get the credential\n{_indented(preset['get_credential'])}")
    console.out("\nThe secret is one of these JSON objects")
    for secret in preset["secrets"]:
        console.out("  {" + ", ".join(f'"{field}": "…"' for field in secret["fields"]) + "}")
        for field, meaning in secret["fields"].items():
            console.out(f"      {field}: {meaning}")
    if preset["notes"]:
        console.out("\nGood to know")
        for note in preset["notes"]:
            console.out(_indented(note))


def _facts(preset: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hosts = preset["hosts"]
    yield "hosts", "\n".join(dict.fromkeys(hosts.values())) or "given in relay.yaml, `upstream.host`"
    yield "ports", ", ".join(f"{port['port']} ({port['tls']})" for port in preset["ports"])
    yield "default port", str(preset["default_port"])
    yield "log-in", ", ".join(name.upper() for name in preset["mechanisms"])
    for name, limit in preset["limits"].items():
        yield name.replace("_", " "), f"{limit:,}"
    delivery = preset["delivery"]
    sessions, messages = delivery["concurrency"], delivery["messages_per_connection"]
    yield "we open", f"up to {sessions} sessions with up to {messages} messages each"
    yield "because", delivery["reason"]
    yield "checked", preset["checked"]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())

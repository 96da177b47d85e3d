"""`builder presets`: the providers, or one with its limits, its sources and how to get the credential."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from builder import console
from builder.cli.options import json_option
from builder.cli.verbs import Verb

if TYPE_CHECKING:
    from builder.presets import Preset


@click.command(cls=Verb, example="builder presets\nbuilder presets ses --sources")
@click.argument("name", required=False)
@click.option("--sources", is_flag=True, help="Show where each value was read, and when.")
@json_option
def command(name: str | None, sources: bool, as_json: bool) -> None:
    """List the mail providers, or show the one called NAME."""
    from builder.presets import load_preset, preset_names

    if name is None:
        _list([load_preset(known) for known in preset_names()], as_json)
        return
    preset = load_preset(name)
    if as_json:
        console.out_json(preset.model_dump(mode="json"))
        return
    _show(preset)
    if sources:
        _show_sources(preset)


def _list(presets: list[Preset], as_json: bool) -> None:
    if as_json:
        console.out_json(
            [{"name": each.name, "title": each.title, "summary": each.summary} for each in presets]
        )
        return
    rows = [(each.name, each.title, _ports(each), each.summary) for each in presets]
    console.out_table(("PRESET", "PROVIDER", "PORTS", "WHAT IT IS"), rows)


def _show(preset: Preset) -> None:
    console.out(f"{preset.title}: {preset.summary}\n")
    console.out_fields(dict(_facts(preset)))
    console.out(f"\nHow to get the credential\n{_indented(preset.get_credential)}")
    console.out("\nThe secret is a JSON object with one of")
    for shape in preset.secret_shapes:
        fields = ", ".join(f'"{field}": …' for field in shape.fields)
        console.out(f"  {{{fields}}}")
        for field, meaning in shape.fields.items():
            console.out(f"      {field}: {meaning}")
    if preset.notes:
        console.out("\nGood to know")
        for note in preset.notes:
            console.out(_indented(note.text))


def _facts(preset: Preset) -> Iterator[tuple[str, str]]:
    hosts = preset.hosts.value
    yield "host", "given in relay.yaml" if preset.host_is_yours else ", ".join(sorted(set(hosts.values())))
    if preset.has_regions:
        yield "regions", ", ".join(hosts)
    yield "ports", _ports(preset)
    yield "log-in", ", ".join(name.upper() for name in preset.mechanisms)
    for name, limit in preset.limits:
        if limit is not None:
            yield name.replace("_", " "), f"{limit.value:,}{_doubt(limit)}"
    delivery = preset.delivery
    yield (
        "we open",
        f"up to {delivery.concurrency} sessions, {delivery.messages_per_connection} messages each",
    )
    yield "because", delivery.reason
    if preset.sender_must_be_account:
        yield "sender", "must be the account's own address"
    yield "checked", preset.checked.isoformat()


def _ports(preset: Preset) -> str:
    starttls = [str(port.port) for port in preset.ports if port.tls == "starttls"]
    implicit = [str(port.port) for port in preset.ports if port.tls == "implicit"]
    ways = (("STARTTLS", starttls), ("TLS", implicit))
    return "; ".join(f"{', '.join(ports)} {way}" for way, ports in ways if ports)


def _doubt(value: Any) -> str:
    if value.unofficial:
        return " (not published by the provider)"
    return " (the provider's advice)" if value.advice else ""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines())


def _show_sources(preset: Preset) -> None:
    console.out("\nWhere each value was read")
    rows = [
        (path, shown, preset.sources[key].date.isoformat(), preset.sources[key].url)
        for path, shown, key in _sourced(preset.model_dump(mode="json"), "")
    ]
    console.out_table(("KEY", "VALUE", "DATE", "SOURCE"), rows)


def _sourced(node: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Walk the data: each object with a `source` is one value; yield key, value in short, source."""
    if isinstance(node, dict):
        if "source" in node:
            known = ("value", "port", "pattern", "name", "text", "what")
            shown = next((str(node[key]) for key in known if node.get(key) is not None), "")
            yield path, shown if len(shown) <= 60 else shown[:59] + "…", node["source"]
            return
        for key, child in node.items():
            yield from _sourced(child, f"{path}.{key}" if path else key)
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from _sourced(child, f"{path}[{index}]")

"""Presets as plain tables and dictionaries, for the command line and the README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from builder.presets import Mechanism, Port, Preset, SecretShape, Sourced, load_preset, preset_names


def presets_table() -> list[dict[str, str]]:
    """Return one row of text per preset, `custom` last; every row has the same columns."""
    names = sorted(preset_names(), key=lambda name: (name == "custom", name))
    return [_row(load_preset(name)) for name in names]


def describe(preset: Preset, *, sources: bool = False) -> dict[str, Any]:
    """Return everything about a preset as JSON-ready data.

    With `sources` there is also `sources`: a list of rows (key, value, source, date, url, remark), one for
    each value that the provider sets or that we choose, in the order of the file.
    """
    data: dict[str, Any] = {
        "name": preset.name,
        "title": preset.title,
        "summary": preset.summary,
        "checked": preset.checked.isoformat(),
        "hosts": {region: name.format(region=region) for region, name in preset.hosts.value.items()},
        "other_hosts": [{"example": other.example, "what": other.what} for other in preset.other_hosts],
        "ports": [{"port": port.port, "tls": port.tls} for port in preset.ports],
        "default_port": preset.default_port,
        "mechanisms": list(preset.mechanism_names),
        "secrets": [{"name": shape.name, "fields": dict(shape.fields)} for shape in preset.secret_shapes],
        "get_credential": preset.get_credential,
        "limits": {name: limit.value for name, limit in preset.limits if limit is not None},
        "delivery": preset.delivery.model_dump(exclude={"basis"}),
        "replies": [
            {"example": reply.example, "meaning": reply.meaning, "becomes": (reply.rewrite or "")[:3] or None}
            for reply in preset.replies
        ],
        "headers": dict(preset.headers),
        "notes": [note.text for note in preset.notes if note.text],
    }
    if sources:
        data["sources"] = list(source_rows(preset))
    return data


def source_rows(preset: Preset) -> Iterator[dict[str, str]]:
    """Give one row for each value of the preset: where it was read, or what a choice of ours rests on."""
    for key, value in _sourced(preset, ""):
        remarks = [
            "unofficial" if getattr(value, "unofficial", False) else "",
            "advice" if getattr(value, "advice", False) else "",
            getattr(value, "note", ""),
        ]
        yield _source_row(preset, key, _short(value), value.source, remarks)
    ours = preset.delivery
    known = {str(name): basis for name, basis in ours.basis.items()}
    for key in ("concurrency", "initial_concurrency", "messages_per_connection", "queue_lifetime_hours"):
        basis = known.get("concurrency" if key == "initial_concurrency" else key)
        if basis and key in ours.model_fields_set:
            remark = f"own choice: {basis.note}"
            yield _source_row(preset, f"delivery.{key}", str(getattr(ours, key)), basis.source, [remark])


def _source_row(
    preset: Preset, key: str, value: str, source_name: str | None, remarks: Sequence[str]
) -> dict[str, str]:
    source = preset.sources[source_name] if source_name else None
    remarks = [*remarks, source.note if source else ""]
    return {
        "key": key,
        "value": value,
        "source": source_name or "",
        # What no page says was decided on the day of the check.
        "date": (source.date if source else preset.checked).isoformat(),
        "url": source.url if source else "",
        "remark": "; ".join(remark for remark in remarks if remark),
    }


def _sourced(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Walk a model for every part that names its source."""
    if isinstance(value, BaseModel):
        if isinstance(value, Mechanism) or isinstance(getattr(value, "source", None), str):
            yield key, value
            return
        for name, inner in value:
            yield from _sourced(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            yield from _sourced(inner, f"{key}[{index}]")


def _short(value: Any) -> str:
    if isinstance(value, Sourced):
        held = value.value
        return ", ".join(held.values()) or "from relay.yaml" if isinstance(held, dict) else str(held)
    if isinstance(value, Port):
        return f"{value.port} {value.tls}"
    if isinstance(value, SecretShape):
        return f"{value.name}: {', '.join(value.fields)}"
    return str(
        next((getattr(value, name) for name in ("name", "example", "text") if hasattr(value, name)), "")
    )


def _row(preset: Preset) -> dict[str, str]:
    hosts = [name.format(region="REGION") for name in preset.hosts.value.values()]
    limits = preset.limits
    return {
        "preset": preset.name,
        "provider": preset.title,
        "host": ", ".join(dict.fromkeys(hosts)) or "yours",
        "ports": ", ".join(str(port.port) for port in preset.ports),
        "secret": " or ".join(f"`{', '.join(shape.fields)}`" for shape in preset.secret_shapes),
        "message": f"{limits.message_bytes.value / 1e6:g} MB" if limits.message_bytes else "not published",
        "recipients": f"{limits.recipients_per_message.value}"
        if limits.recipients_per_message
        else "not published",
        "checked": preset.checked.isoformat(),
    }

"""Say in plain words what pydantic found: key, found, expected, nearest right key."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from builder.config.yaml_text import Scalar

Where = tuple[str | int, ...]

# What other tools and Postfix call it.
_OTHER_NAMES = {
    "relayhost": "upstream.host",
    "host": "upstream.host",
    "port": "upstream.port",
    "provider": "preset",
    "mynetworks": "networks",
    "allowed_networks": "networks",
    "myhostname": "hostname",
    "myorigin": "domain",
    "message_size_limit": "message_bytes",
    "max_message_size": "message_bytes",
    "secret_name": "secret",
    "secret_arn": "secret",
    "postfix": "main_cf",
    "aws_region": "region",
    "rate_limit": "quota.messages_per_second",
    "users": "submission.secret",
}
_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a number",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "keys and values",
    "mapping_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "date_type": "a date such as 2026-12-01",
    "date_parsing": "a date such as 2026-12-01",
    "date_from_datetime_parsing": "a date such as 2026-12-01",
    "string_too_short": "text that is not empty",
    "too_short": "at least one entry",
    "invalid_key": "a key that is text",
}
# Values of these keys are never shown: what stands there by mistake may be a password.
_PRIVATE = ("secret", "main_cf")


def key_name(where: Where) -> str:
    """Write a place as in the file: `routes[0].name`."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def describe(
    item: Mapping[str, Any], where: Where, mark: Scalar | None, top: type[BaseModel]
) -> tuple[str, str | None]:
    """Return the sentence after the key, and a hint, for one of pydantic's errors.

    `where` is the place in the file, `mark` what stands there.
    """
    kind, context = str(item["type"]), item.get("ctx", {})
    if kind == "relay":
        return context["text"], context["hint"]
    if kind == "extra_forbidden":
        near = nearest_key(where, top)
        return "is not a known key", f"Did you mean `{near}`?" if near else "Remove the line"
    if kind == "missing":
        return "is missing", None
    if kind == "value_error":
        text = str(context["error"])
        if not text.startswith("expected "):
            return f"is wrong: {text}", None
        return f"is {found(item['input'], where, mark)}, {text}", None
    expected = _expected(kind, context)
    if expected in ("a list", "keys and values") and isinstance(item["input"], (str, int, float)):
        return f"is one single value, expected {expected}", None
    # Quotes would not help where numbers are expected.
    note = "" if kind == "literal_error" and "`" not in expected else _yaml_note(mark, kind)
    return f"is {found(item['input'], where, mark)}, expected {expected}{note}", None


def found(value: Any, where: Where, mark: Scalar | None) -> str:
    """Show a value that was found, short; not where a secret may stand."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, (dict, BaseModel)):
        return "keys and values"
    if isinstance(value, (list, tuple)):
        return "a list"
    if any(part in _PRIVATE for part in where):
        return "a value that is not shown"
    text = mark.written if mark and mark.written else str(value)
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return f"`{shown[:60]}…`" if len(shown) > 60 else f"`{shown}`"


def _expected(kind: str, context: Mapping[str, Any]) -> str:
    if kind in ("greater_than_equal", "greater_than"):
        return f"{context.get('ge', context.get('gt'))} or more" if kind.endswith("equal") else "more than 0"
    if kind in ("less_than_equal", "less_than"):
        return f"{context.get('le', context.get('lt'))} or less"
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "`")
    if kind == "string_too_long":
        return f"{context['max_length']} characters at most"
    if kind == "too_long":
        return f"{context['max_length']} entries at most"
    return _EXPECTED.get(kind, "another value")


def _yaml_note(mark: Scalar | None, kind: str) -> str:
    names = {"bool": "true or false", "int": "a number", "float": "a number", "timestamp": "a date"}
    if mark and kind in ("string_type", "literal_error") and mark.kind in names:
        return f"; YAML reads it as {names[mark.kind]}, put it in quotes"
    return ""


def nearest_key(where: Where, top: type[BaseModel]) -> str | None:
    """Return the right key nearest to an unknown one: beside it, by another name, or elsewhere."""
    *parent, wrong = where
    wrong = str(wrong).lower().replace("-", "_")
    model = _model_at(tuple(parent), top)
    beside = list(model.model_fields) if model else []
    near = difflib.get_close_matches(wrong, beside, n=1, cutoff=0.7)
    if near:
        return key_name((*parent, near[0]))
    if wrong in _OTHER_NAMES:
        return _OTHER_NAMES[wrong]
    elsewhere = {path.rpartition(".")[2]: path for path in reversed(list(_all_keys(top)))}
    near = difflib.get_close_matches(wrong, elsewhere, n=1, cutoff=0.85)
    return elsewhere[near[0]] if near else None


def _model_at(where: Where, top: type[BaseModel]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = top
    for part in where:
        if model is not None and isinstance(part, str):
            field = model.model_fields.get(part)
            model = _inner_model(field.annotation) if field else None
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """Find the model in `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner_model, typing.get_args(annotation))), None)


def _all_keys(model: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield before + name
        inner = _inner_model(field.annotation)
        is_list = typing.get_origin(field.annotation) is tuple
        if inner and not is_list and before.count(".") < 3:
            yield from _all_keys(inner, f"{before}{name}.")

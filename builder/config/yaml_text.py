"""Read a YAML file with the lines of its keys, and name the traps of YAML 1.1. Never repeats file content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from builder.errors import ConfigError

Where = tuple[str | int, ...]
_MAX_BYTES = 256 * 1024
_DEEPEST = 20
_OCTAL = re.compile(r"[-+]?0[0-7_]+")


class Scalar(NamedTuple):
    """One value as it is written, for messages: its line, its text, and what YAML makes of it."""

    line: int
    written: str
    kind: str
    """The type by YAML's rules: str, bool, int, float, null, timestamp, map, seq."""


class Document(NamedTuple):
    """The content of a file, where each key stands, and what is wrong with the form."""

    data: dict[str, Any]
    marks: dict[Where, Scalar]
    problems: list[tuple[Where, str]]
    text: str = ""


def read_document(path: Path) -> Document:
    """Read a YAML file whose top is keys and values.

    Errors: ConfigError when it cannot be read or is not YAML, with the line but never with content.
    """
    text = _read_text(path)
    root = _compose(path, text)
    if root is None:
        raise ConfigError(str(path), ["the file is empty"], hint="`builder init` writes one to start from")
    if not isinstance(root, yaml.MappingNode):
        found = "a list" if isinstance(root, yaml.SequenceNode) else "one single value"
        what = f"the file holds {found}, expected keys and values such as `preset: ses`"
        raise ConfigError(str(path), [what])
    marks: dict[Where, Scalar] = {}
    problems: list[tuple[Where, str]] = []
    data = _value(root, (), marks, problems)
    return Document(data, marks, problems, text)


def _read_text(path: Path) -> str:
    what = None
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        what, content = "there is no such file", b""
    except IsADirectoryError:
        what, content = "it is a folder, expected a file", b""
    except OSError as error:
        what, content = f"it cannot be read: {error.strerror}", b""
    if len(content) > _MAX_BYTES:
        what = f"it has {len(content)} bytes, more than any relay.yaml needs ({_MAX_BYTES})"
    if what:
        raise ConfigError(str(path), [what], hint="`builder init` writes one to start from")
    text = content.decode("utf-8-sig", errors="replace")
    if "\ufffd" in text:
        line = text[: text.index("\ufffd")].count("\n") + 1
        raise ConfigError(str(path), [f"line {line} is not UTF-8 text"], hint="Save the file as UTF-8")
    return text


def _compose(path: Path, text: str) -> yaml.Node | None:
    """Parse without building values; the parser's own messages are cut down, since they quote the file."""
    root: yaml.Node | None = None
    try:
        what = _shape_problem(text)
        root = None if what else yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = f"not YAML: {where}{_without_quotes(error.problem or 'it cannot be read')}"
    except yaml.YAMLError:
        what = "not YAML: it holds a control character"
    if what:
        raise ConfigError(str(path), [what])
    return root


def _shape_problem(text: str) -> str | None:
    """Look for what could make a small file endless: aliases, and nesting that no configuration has."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            return f"line {line} has an alias (`*`), which relay.yaml does not use"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            return f"line {line} is nested too deeply"
    return None


def _without_quotes(problem: str) -> str:
    """Cut out what the parser quotes from the file."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "…", problem)


def _value(
    node: yaml.Node, where: Where, marks: dict[Where, Scalar], problems: list[tuple[Where, str]]
) -> Any:
    mark = _mark(node, node.start_mark.line + 1)
    marks.setdefault(where, mark)
    if isinstance(node, yaml.MappingNode):
        return dict(_entries(node, where, marks, problems))
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*where, i), marks, problems) for i, item in enumerate(node.value)]
    problems.extend((where, text) for text in _traps(mark.kind, mark.written))
    return _scalar(node, where, problems)


def _mark(node: yaml.Node, line: int) -> Scalar:
    return Scalar(line, node.value if isinstance(node, yaml.ScalarNode) else "", node.tag.rpartition(":")[2])


def _entries(
    node: yaml.MappingNode, where: Where, marks: dict[Where, Scalar], problems: list[tuple[Where, str]]
) -> Iterator[tuple[str, Any]]:
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append((where, f"has a list or mapping as a key in line {line}"))
            continue
        # As it is written: `on:` would otherwise be the boolean true.
        key = str(key_node.value)
        here = (*where, key)
        if key in seen:
            problems.append((here, f"stands twice, first in line {seen[key]}; YAML would keep the last one"))
        seen[key] = line
        marks[here] = _mark(value_node, line)
        yield key, _value(value_node, here, marks, problems)


def _scalar(node: yaml.Node, where: Where, problems: list[tuple[Where, str]]) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError):
        # An own tag (`!x`), or a date such as 2026-02-30.
        problems.append((where, "cannot be read as YAML means it; put it in quotes"))
        return None
    finally:
        loader.dispose()


def _traps(kind: str, written: str) -> Iterator[str]:
    if kind == "int" and _OCTAL.fullmatch(written):
        octal = int(written.replace("_", ""), 8)
        yield f"is `{written}`, which YAML reads as the octal number {octal}; write it without the 0"
    elif kind in ("int", "float") and ":" in written:
        yield f"is `{written}`, which YAML reads as a number to the base 60; put it in quotes"

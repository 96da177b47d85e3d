"""Read `relay.yaml`, put flags over it, and report every mistake at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from builder.config import wording
from builder.config.boot import BootConfig
from builder.config.leaks import find_leaks, find_leaks_in_lines
from builder.config.model import RelayConfig
from builder.config.problem import Problem
from builder.config.values import HALF_CHARACTER
from builder.config.yaml_text import Document, Scalar, Where, read_document
from builder.errors import ConfigError

# In place of a preset that is missing or has no readable name, so that the rest can still be checked.
_NO_PRESET = "?"
_LEAK_HINT = "Remove it, replace it at the provider if others saw it, and store it with `builder secret put`"

M = TypeVar("M", bound=BaseModel)


def load_config(path: Path | None, flags: Mapping[str, Any] | None = None) -> RelayConfig:
    """Read a configuration file (None: flags alone) and return it checked.

    Flags that are None are left out; others replace the file's keys, `upstream.port` that key alone.
    Errors: ConfigError with every mistake: key, found, expected, nearest key, line. No secret that was put in
    by mistake is ever repeated, nor kept in the chain of exceptions.
    """
    document = read_document(path) if path is not None else Document({}, {}, [])
    return _read(RelayConfig, document, flags or {}, str(path) if path is not None else "command line")


def boot_config(values: Mapping[str, Any]) -> BootConfig:
    """Check what one instance is told at launch (flags; None is left out). Errors: as load_config."""
    return _read(BootConfig, Document({}, {}, []), values, "launch settings")


def load_boot_config(path: Path) -> BootConfig:
    """Read what one instance is told at launch from a YAML file. Errors: as load_config."""
    return _read(BootConfig, read_document(path), {}, str(path))


def _read(model: type[M], document: Document, flags: Mapping[str, Any], source: str) -> M:
    given = {name: value for name, value in flags.items() if value is not None}
    reader = _Reader(model, document, given)
    config = reader.read()
    if config is None or reader.problems:
        # Raised out here so that no exception that holds the input hangs on to it as its context.
        raise reader.error(source)
    return config


def _plain(value: Any) -> Any:
    """Copy a flag's value as YAML would have given it: lists, not tuples, which can be taken from."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _halves(data: Any, where: Where = ()) -> Iterator[Where]:
    """Give every place with half a character: an escape of YAML's, or a stray byte in a flag."""
    if isinstance(data, dict):
        for key, value in data.items():
            here = (*where, str(key))
            yield from [here] if HALF_CHARACTER.search(str(key)) else _halves(value, here)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _halves(value, (*where, index))
    elif isinstance(data, str) and HALF_CHARACTER.search(data):
        yield where


class _Reader(Generic[M]):
    """One reading: the data is pruned of what is wrong until the rest can be checked as a whole."""

    def __init__(self, model: type[M], document: Document, flags: Mapping[str, Any]) -> None:
        self.model = model
        self.marks = document.marks
        self.data = document.data
        self.flags: set[Where] = set()
        self.problems: list[Problem] = []
        self._origin: dict[int, list[int]] = {}
        for name, value in flags.items():
            self._set(tuple(name.split(".")), value)
        self._refuse_leaks(document.text)
        self._refuse_halves()
        for where, text in document.problems:
            self._add(where, text)

    def read(self) -> M | None:
        """Return the configuration, or None with every mistake in `problems`."""
        while True:
            try:
                return self.model.model_validate(self.data)
            except ValidationError as error:
                errors: list[Any] = list(error.errors(include_url=False))
            if not self._note(errors):
                return None

    def error(self, source: str) -> ConfigError:
        """Return the one error that lists every mistake, in the order of the file."""
        ordered = sorted(self.problems, key=lambda problem: self._line(problem.where) or 0)
        if len(ordered) == 1:
            return ConfigError(source, [self._sentence(ordered[0])], hint=ordered[0].hint)
        lines = [self._sentence(item) + (f". {item.hint}" if item.hint else "") for item in ordered]
        return ConfigError(source, lines)

    def _set(self, where: Where, value: Any) -> None:
        """Put a flag in place of the file's key."""
        target = self.data
        for part in where[:-1]:
            inner = target.get(str(part))
            target[str(part)] = target = inner if isinstance(inner, dict) else {}
        target[str(where[-1])] = _plain(value)
        self.flags.add(where)

    def _refuse_leaks(self, text: str) -> None:
        # What is not in a value may be in a comment, or in the first of two keys of the same name.
        for leak in list(find_leaks(self.data)) or list(find_leaks_in_lines(text)):
            where = leak.where
            if leak.in_key:
                where = (*leak.where[:-1], "(a key that is not shown)")
                self.marks[where] = Scalar(self._line(leak.where) or 0, "", "str")
            what = f"holds {leak.kind}; credentials do not belong here"
            self.problems.append(Problem(where, what, _LEAK_HINT))
            if not self._prune(leak.where):
                # Rather lose a whole group than show one value of it.
                self.data.pop(str(leak.where[0]), None)

    def _refuse_halves(self) -> None:
        """Refuse text that no encoding carries; with it, nothing could even say what else is wrong."""
        for where in list(_halves(self.data)):
            shown = where
            if HALF_CHARACTER.search(str(where[-1])):
                shown = (*where[:-1], "(a key that is not shown)")
                self.marks[shown] = Scalar(self._line(where) or 0, "", "str")
            self._add(shown, "has half a character, or a byte that is not UTF-8, in it")
            self._prune(where)

    def _note(self, errors: list[Any]) -> bool:
        """Add the mistakes of one round; say whether anything was taken out, so that more may be found."""
        pruned = False
        # All places first: taking one out moves those behind it in the same list.
        places = [self._original(item["loc"]) for item in errors]
        for item, where in zip(errors, places, strict=True):
            text, hint = wording.describe(item, where, self._mark(where), self.model)
            if item["type"] == "relay":
                # What was taken out of a group may be why the rest of it does not fit.
                if not any(known.where[: len(where)] == where for known in self.problems):
                    self._add(where, text, hint)
                continue
            self._add(where, text, hint)
            if where == ("preset",):
                pruned = pruned or self.data.get("preset") != _NO_PRESET
                self.data["preset"] = _NO_PRESET
            else:
                pruned = self._prune(where[:-1] if item["type"] == "missing" else where) or pruned
        return pruned

    def _add(self, where: Where, text: str, hint: str | None = None) -> None:
        """Note a mistake, unless the same place or one above it was found wrong before."""
        known = {problem.where for problem in self.problems}
        if not any(where[:length] in known for length in range(1, len(where) + 1)):
            self.problems.append(Problem(where, text, hint))

    def _prune(self, where: Where) -> bool:
        """Take a place out of the data; False when it is not there."""
        if not where:
            return False
        target: Any = self.data
        for part in where[:-1]:
            target = self._step(target, part)
        last = where[-1]
        if isinstance(target, list) and isinstance(last, int):
            kept = self._kept(target)
            if last in kept:
                del target[kept.index(last)]
                kept.remove(last)
                return True
        elif isinstance(target, dict) and last in target:
            del target[last]
            return True
        return False

    def _step(self, target: Any, part: str | int) -> Any:
        if isinstance(target, list) and isinstance(part, int):
            kept = self._kept(target)
            return target[kept.index(part)] if part in kept else None
        return target.get(part) if isinstance(target, dict) else None

    def _kept(self, items: list[Any]) -> list[int]:
        """Return the places that a list's remaining items had in the file."""
        return self._origin.setdefault(id(items), list(range(len(items))))

    def _original(self, loc: tuple[str | int, ...]) -> Where:
        """Turn a place in the pruned data into the place in the file."""
        where: list[str | int] = []
        target: Any = self.data
        for part in loc:
            if part == "[key]":
                break
            if isinstance(target, list) and isinstance(part, int):
                where.append(self._kept(target)[part])
                target = target[part]
            else:
                where.append(part)
                target = target.get(part) if isinstance(target, dict) else None
        return tuple(where)

    def _mark(self, where: Where) -> Any:
        return None if where in self.flags else self.marks.get(where)

    def _line(self, where: Where) -> int | None:
        """Return the line of a key, or of the nearest one above it."""
        for length in range(len(where), 0, -1):
            if where[:length] in self.marks:
                return self.marks[where[:length]].line
        return None

    def _sentence(self, problem: Problem) -> str:
        place = self._place(problem.where, self._line(problem.where))
        return f"`{wording.key_name(problem.where)}` {problem.text}{place}"

    def _place(self, where: Where, line: int | None) -> str:
        if where[:1] in self.flags or where in self.flags:
            # Without a file the error begins with "command line" already.
            return " (from the command line)" if self.marks else ""
        return f" (line {line})" if line else ""

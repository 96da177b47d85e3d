"""The one place where values meet templates: each is escaped for its file, or refused."""

from __future__ import annotations

import json
import re
import textwrap
from functools import lru_cache
from typing import Any

import jinja2

from builder import assets
from builder.errors import BuilderError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# What YAML does not allow in a double-quoted text, or reads as a line break there.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


class Checked(str):
    """Text that may go into a template as it is: it was escaped, or it is ours."""

    __slots__ = ()


def one_line(value: object, *, name: str = "a value") -> str:
    """Return a value as text; BuilderError when it would end the line that it is written on."""
    text = str(value)
    if _CONTROL.search(text):
        raise BuilderError(
            f"{name} holds a line break or another control character: {text!r}",
            hint="Write it on one line; what comes after a line break would become a setting of its own",
        )
    return text


def main_cf_value(value: object, *, name: str = "a value") -> Checked:
    """Return a value for main.cf that stands for itself: `$` would name another parameter (postconf(5))."""
    return Checked(one_line(value, name=name).strip().replace("$", "$$"))


def to_json(value: Any) -> Checked:
    """Write a value as JSON that is YAML at the same time."""
    text = json.dumps(value, ensure_ascii=False)
    return Checked(_NOT_IN_YAML.sub(lambda found: f"\\u{ord(found.group()):04x}", text))


def regexp_pattern(pattern: str) -> Checked:
    """Write a pattern between slashes, as regexp_table(5) wants it."""
    return Checked(re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", one_line(pattern, name="a pattern")))


def regexp_result(text: str) -> Checked:
    """Write a result of regexp_table(5) that stands for itself: `$` would name a group of the pattern.

    Where there is no such group, Postfix skips the whole rule with a warning.
    """
    return Checked(one_line(text, name="a result").replace("$", "$$"))


def comment(text: str) -> Checked:
    """Write a text as comment lines."""
    lines = textwrap.wrap(one_line(text, name="a comment"), 116)
    return Checked("\n".join(f"# {line}" for line in lines))


def render_template(name: str, **values: Any) -> str:
    """Fill in a template of `cloudinit/`; each value is made safe for the kind of file that it is."""
    return _environment(name).get_template(name).render(**values)


def _environment(name: str) -> jinja2.Environment:
    if name.endswith((".yaml.j2", ".json.j2")):
        return _new_environment("json")
    return _new_environment("main.cf" if name.endswith("main.cf.j2") else "line")


@lru_cache
def _new_environment(kind: str) -> jinja2.Environment:
    # `finalize` sees each value on its way into the text, so no template can forget to escape.
    escape = {"main.cf": main_cf_value, "line": one_line, "json": _only_json}[kind]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(assets.folder("cloudinit")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  no HTML; `finalize` escapes
        finalize=lambda value: value if isinstance(value, Checked | jinja2.Undefined) else escape(value),
    )
    environment.filters["tojson"] = to_json
    environment.filters["comment"] = comment
    environment.filters["slashes"] = regexp_pattern
    return environment


def _only_json(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[a-z_]+", value):
        return value
    raise BuilderError(f"A template writes {value!r} without `tojson`")

"""Write again what the documents take from the code: `make docs`.

A document holds a block between `<!-- begin NAME -->` and `<!-- end NAME -->`; `BLOCKS` says what belongs in
it. A test fails when a document is behind.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"(<!-- begin (?P<name>[a-z-]+) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL)
_WIDTH = 80
# Outside the package: what a newcomer meets, in the order of the way of the data.
_OTHER_MODULES = ("cloudinit/agent/relay_agent", "tools/docs.py", "bench/harness.py", "tests/fakes.py")


def help_block() -> str:
    """Return `builder --help` as a code block, 80 columns wide."""
    from builder.cli import cli

    context = click.Context(cli, info_name="builder", terminal_width=_WIDTH, **cli.context_settings)
    return f"```text\n$ builder --help\n{cli.get_help(context)}\n```\n"


def presets_block() -> str:
    """Return the table of the presets, made from their YAML files."""
    from builder.preset_view import presets_table

    columns = {
        "Preset": "preset",
        "Provider": "provider",
        "Host": "host",
        "Ports": "ports",
        "Largest message": "message",
        "Recipients": "recipients",
        "Checked": "checked",
    }
    rows = [[row[key] for key in columns.values()] for row in presets_table()]
    return table(list(columns), [[f"`{row[0]}`", *row[1:]] for row in rows])


def modules_block() -> str:
    """Return the map of modules: top layer first, each with the first line of its docstring."""
    package = [(f"builder/{name}", ROOT / "builder" / name) for name in _layered_modules()]
    others = [(name, ROOT / name) for name in _OTHER_MODULES]
    rows = [[f"`{name}`", first_line(path)] for name, path in [*package, *others]]
    return table(["Module", "What it is for"], rows)


BLOCKS: Mapping[str, Callable[[], str]] = {
    "help": help_block,
    "modules": modules_block,
    "presets": presets_block,
}


def documents() -> list[Path]:
    """List the documents that may hold blocks."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def rewrite(text: str) -> str:
    """Return a document with every block made anew; KeyError for a block that is not known."""
    return _BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match['name']]()}{match[3]}", text)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def first_line(path: Path) -> str:
    """Return the first line of a module's or package's docstring, without its full stop."""
    source = path / "__init__.py" if path.is_dir() else path
    docstring = ast.get_docstring(ast.parse(source.read_text()))
    if not docstring:
        raise ValueError(f"{source} has no docstring")
    return docstring.splitlines()[0].removesuffix(".")


def _layered_modules() -> Iterator[str]:
    """Walk the layers of pyproject.toml from the top; yield those modules that are there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for layer in project["tool"]["importlinter"]["contracts"][0]["layers"]:
        for name in re.findall(r"\w+", layer):
            for path in (f"{name}.py", name):
                if (ROOT / "builder" / path).exists():
                    yield path


def main() -> None:
    """Rewrite every document in place, and name those that changed."""
    for path in documents():
        before = path.read_text()
        after = rewrite(before)
        if after != before:
            path.write_text(after)
            sys.stdout.write(f"{path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()

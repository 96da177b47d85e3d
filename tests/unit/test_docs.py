"""The documents say what is so: what they take from the code is compared with it."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

from builder.cli.verbs import VERBS
from tools import docs

ROOT = Path(__file__).resolve().parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
# How a distribution is imported, where that is not its own name.
IMPORT_NAMES = {
    "cyclonedx-python-lib": ("cyclonedx", "packageurl"),
    "boto3": ("boto3", "botocore"),
    "flask-cors": ("flask_cors",),
    "python-hcl2": ("hcl2",),
    "pyyaml": ("yaml",),
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", docs.documents(), ids=name_of)
def test_every_block_is_as_the_code_has_it(path: Path) -> None:
    text = path.read_text()

    assert docs.rewrite(text) == text, "run `make docs`"


@pytest.mark.parametrize("path", docs.documents(), ids=name_of)
def test_every_block_that_begins_also_ends(path: Path) -> None:
    text = path.read_text()

    assert re.findall(r"<!-- begin (\S+) -->", text) == re.findall(r"<!-- end (\S+) -->", text)


@pytest.mark.parametrize("path", docs.documents(), ids=name_of)
def test_every_verb_that_a_document_calls_is_there(path: Path) -> None:
    # What is only planned may be named where it says so.
    text = re.sub(r"^.*not here yet.*$", "", path.read_text(), flags=re.MULTILINE)
    calls = re.findall(r"^(?:\$ |sudo )*builder ([a-z]+)|`builder ([a-z]+)", text, re.MULTILINE)

    assert {first or second for first, second in calls} - set(VERBS) == set()


@pytest.mark.parametrize("path", docs.documents(), ids=name_of)
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", path.read_text())

    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", docs.documents(), ids=name_of)
def test_every_make_target_that_a_document_names_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"`make ([a-z-]+)|^(?:\$ )?make ([a-z-]+)", path.read_text(), re.MULTILINE)

    assert {first or second for first, second in named} - targets == set()


def test_the_map_of_modules_is_whole() -> None:
    modules = {path.name for path in (ROOT / "builder").glob("*.py")} - {"__init__.py", "__main__.py"}
    packages = {path.parent.name for path in (ROOT / "builder").glob("*/__init__.py")}

    block = docs.modules_block()

    assert "<!-- begin modules -->" in CONTRIBUTING
    assert [name for name in modules | packages if f"`builder/{name}`" not in block] == []


def test_an_unknown_block_is_an_error() -> None:
    with pytest.raises(KeyError, match="no-such-block"):
        docs.rewrite("<!-- begin no-such-block -->\n<!-- end no-such-block -->")


def dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.split(r"[\[<>=]", line)[0] for line in project["dependencies"]]


def homes(package: str) -> list[str]:
    """Read the places that CONTRIBUTING.md gives a dependency; empty where it is not listed."""
    row = re.search(rf"^\| `{re.escape(package)}` \|([^|]*)\|", CONTRIBUTING, re.MULTILINE)
    return re.findall(r"`([^`]+)`", row[1]) if row else []


@functools.cache
def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", [*dependencies(), "subprocess"])
def test_a_dependency_is_imported_only_where_contributing_says(package: str) -> None:
    names = set(IMPORT_NAMES.get(package, (package,)))
    allowed = homes(package)
    users = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "builder").rglob("*.py"))
        if imports_of(path) & names
    ]

    assert allowed, f"CONTRIBUTING.md, Dependencies, does not list `{package}`"
    assert [
        user for user in users if not any(user == home or user.startswith(home) for home in allowed)
    ] == []


def test_contributing_lists_no_dependency_that_is_not_there() -> None:
    section = CONTRIBUTING.partition("## Dependencies")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)

    assert sorted(listed) == sorted([*dependencies(), "subprocess"])

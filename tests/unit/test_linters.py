"""The linters are tests, so that one command checks everything and none of them can be forgotten."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
# Broken up, so that this file does not name what it forbids.
PACKAGE_HOSTS = (
    "py" + "pi.org",
    "python" + "hosted.org",
    "proxy.go" + "lang.org",
    "registry.npm" + "js",
    "deb.deb" + "ian.org",
)
MACHINE_PATH = re.compile(
    r"/(work|root)/(main/|scratch|shared|[.](library|mirror|pyenv|cache))|/opt/(wheels)"
)
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40
# The files whose text is made by a tool.
GENERATED = ("go.sum", "go.mod")


def check(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a linter and return what it printed; the test fails with that when the linter does."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command[0]}:\n{done.stdout}{done.stderr}"
    return done.stdout


def tracked(*patterns: str) -> list[Path]:
    """List the files that git has, and that are still there."""
    names = check("git", "ls-files", "-z", "--", *patterns).split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def python_files() -> list[Path]:
    return tracked("*.py")


def text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


def length_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's body, its docstring aside."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.allow_programs("ruff")
def test_ruff_finds_nothing() -> None:
    check(BIN / "ruff", "check", "--quiet", ".")


@pytest.mark.allow_programs("ruff")
def test_the_code_is_formatted() -> None:
    check(BIN / "ruff", "format", "--quiet", "--diff", ".")


@pytest.mark.allow_programs("mypy")
def test_mypy_finds_nothing() -> None:
    check(BIN / "mypy", "--no-error-summary")


@pytest.mark.allow_programs("lint-imports")
def test_each_layer_imports_only_below_it() -> None:
    check(BIN / "lint-imports", "--no-cache")


@pytest.mark.allow_programs("git", "codespell")
def test_words_are_spelled_right() -> None:
    check(BIN / "codespell", *[path for path in tracked() if path.name not in GENERATED])


@pytest.mark.allow_programs("git", "shellcheck")
def test_shellcheck_finds_nothing_in_any_shell_script() -> None:
    shebang = re.compile(r"#!(/usr)?/bin/(env )?(ba|da)?sh\b")
    scripts = [path for path in tracked() if shebang.match(text_of(path) or "")]

    assert ROOT / ".ci/run" in scripts
    check("shellcheck", "--external-sources", *scripts)


@pytest.mark.allow_programs("git", "yamllint")
def test_yamllint_finds_nothing() -> None:
    files = [path for path in tracked("*.yaml", "*.yml") if "tests/data" not in str(path)]

    check(BIN / "yamllint", "--strict", "-c", ROOT / ".yamllint", *files)


@pytest.mark.allow_programs("packer")
def test_the_packer_templates_are_formatted() -> None:
    check("packer", "fmt", "-check", "-diff", "packer")


@pytest.mark.allow_programs("git")
def test_no_module_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in python_files()}

    assert {str(path): lines for path, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


@pytest.mark.allow_programs("git")
def test_no_function_is_too_long() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in python_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length_of(node) > MAX_FUNCTION_LINES
    ]

    assert too_long == []


@pytest.mark.allow_programs("git")
def test_no_file_names_a_path_of_one_machine_or_a_package_host() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()[:80]}"
        for path in tracked()
        if path.name not in GENERATED
        for line in (text_of(path) or "").splitlines()
        if MACHINE_PATH.search(line) or any(host in line for host in PACKAGE_HOSTS)
    ]

    assert found == []


def test_apt_txt_says_why_and_names_each_package_once() -> None:
    lines = (ROOT / "requirements/apt.txt").read_text().splitlines()

    assert lines[0].startswith("# ")
    assert len({line for line in lines if not line.startswith("#")}) == len(
        [x for x in lines if not x.startswith("#")]
    )


@pytest.mark.allow_programs("git")
def test_make_bench_runs_every_benchmark() -> None:
    (listed,) = re.findall(r"^BENCHES := (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    scripts = [path for path in tracked("bench/*.py") if "harness.arguments(" in path.read_text()]
    assert sorted(listed.split()) == sorted(path.relative_to(ROOT).as_posix() for path in scripts)


@pytest.mark.allow_programs("git")
def test_every_package_of_tests_is_tracked_with_its_code() -> None:
    untracked = check("git", "ls-files", "--others", "--exclude-standard", "--", "tests/*/__init__.py")

    assert untracked == ""

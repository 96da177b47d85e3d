"""Rules for the whole agent: old Python, standard library, no shadowing of cloudinit, a hardened unit."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "cloudinit" / "agent"
SOURCES = sorted(AGENT.glob("relay_agent/**/*.py"))
COMMANDS = sorted((AGENT / "bin").iterdir())
UNIT = ROOT / "cloudinit" / "systemd" / "relay-agent.service"
SIGNER = ROOT / "cloudinit" / "dkim" / "relay-dkim.service"
REASONS = ROOT / "docs" / "relayctl.md"
# Of the distribution, beside the standard library: python3-boto3.
ALLOWED = {"relay_agent", "botocore"}
# Newer than 3.8, and in use nearly everywhere else in this repository.
TOO_NEW = (
    "removeprefix",
    "removesuffix",
    "is_relative_to",
    "with_stem",
    "readlink",
    "hardlink_to",
    "pairwise",
    "zoneinfo",
    "tomllib",
    "graphlib",
    "to_thread",
    "bit_count",
    "randbytes",
    "UTC",
    "StrEnum",
    "ExceptionGroup",
    "cache",
)


@pytest.mark.parametrize("path", [*SOURCES, *COMMANDS], ids=lambda path: path.name)
def test_it_is_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in TOO_NEW, f"line {node.lineno}: {node.attr}"
        if isinstance(node, ast.alias):
            assert node.name not in TOO_NEW, node.name
        if isinstance(node, ast.keyword):
            assert node.arg not in {"slots", "kw_only", "strict", "cancel_futures"}, f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_annotations_are_never_evaluated(path: Path) -> None:
    """`str | None` and `list[int]` are newer than 3.8 anywhere but in an annotation that stays text."""
    tree = ast.parse(path.read_text())
    code = [
        node
        for node in tree.body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    if code and path.name != "__init__.py":
        assert isinstance(code[0], ast.ImportFrom)
        assert code[0].module == "__future__"
    annotations = {id(part) for node in ast.walk(tree) for part in annotation_parts(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and id(node) not in annotations:
            name = getattr(node.value, "id", "")
            assert name not in {"list", "dict", "tuple", "set", "type", "deque", "Counter"}, node.lineno
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and id(node) not in annotations:
            assert not is_none(node.right), f"line {node.lineno}"


def annotation_parts(node: ast.AST) -> list[ast.AST]:
    roots = [getattr(node, "annotation", None), getattr(node, "returns", None)]
    return [part for root in roots if root is not None for part in ast.walk(root)]


def is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_it_imports_what_a_relay_has_and_nothing_of_builder(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            first = name.partition(".")[0]
            assert first in ALLOWED or first in sys.stdlib_module_names, f"line {node.lineno}: {name}"


def test_nothing_hides_the_real_cloudinit_package() -> None:
    assert not (ROOT / "cloudinit" / "__init__.py").exists()
    assert not (AGENT / "__init__.py").exists()


def test_programs_are_started_in_one_place_only() -> None:
    users = [
        path.name for path in SOURCES if re.search(r"subprocess\.(run|Popen|check|call)\(", path.read_text())
    ]
    assert users == ["programs.py"]


def test_starting_the_agent_imports_neither_the_aws_library_nor_anything_slow() -> None:
    code = "import sys, relay_agent.__main__; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(AGENT)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "relay_agent.agent" in loaded
    for name in ("botocore", "boto3", "asyncio", "multiprocessing", "unittest", "relay_agent.ctl"):
        assert name not in loaded


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.name)
def test_commands_take_nothing_from_their_surroundings(command: Path) -> None:
    assert command.read_text().startswith("#!/usr/bin/python3 -I\n")
    assert command.stat().st_mode & 0o111
    assert '"/usr/lib/relay"' in command.read_text()


@pytest.mark.parametrize("unit", [UNIT, SIGNER], ids=lambda unit: unit.name)
def test_the_unit_is_well_exposed_to_nothing(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.fail("systemd-analyze is missing: `apt-get install systemd`")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert match, done.stdout + done.stderr
    assert float(match.group(1)) <= 3.0


def test_the_unit_keeps_the_credential_off_the_disk_and_over_a_restart() -> None:
    lines = UNIT.read_text().splitlines()
    for line in (
        "Type=notify",
        "RuntimeDirectory=relay",
        "RuntimeDirectoryMode=0750",
        "RuntimeDirectoryPreserve=yes",
        "StateDirectory=relay",
        "LimitCORE=0",
        "MemorySwapMax=0",
        "Restart=always",
        "TimeoutStartSec=infinity",
        "ExecStart=/usr/sbin/relay-agent",
        "WantedBy=multi-user.target",
    ):
        assert line in lines


def test_every_reason_is_in_the_documentation_and_no_other() -> None:
    documented = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", REASONS.read_text().partition("## Reasons")[2]))
    raised = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in documented:
                raised.add(node.value)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Trouble" and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    assert first.value in documented, f"{path.name}:{node.lineno}"
    words = {"postconf", "postqueue", "relayctl"}
    assert documented - raised <= words

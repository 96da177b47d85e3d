"""Fixtures that every layer of tests uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.packer import PLUGINS
from tests import packers
from tests.fakes import FakeTools


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which Packers the tests of real bakes were run with, and which were not found."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    if not any({"aws", "vm"} & set(getattr(report, "keywords", ())) for report in reports):
        return
    terminalreporter.section("Packers")
    for name, path in packers.paths().items():
        lacking = {target: packers.why_not(path, target) for target in PLUGINS}
        for target, reason in lacking.items():
            terminalreporter.line(f"{name:12} {target:5} {'not tried: ' + reason if reason else 'tried'}")


@pytest.fixture
def repository() -> Path:
    """The folder of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def fake_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTools:
    """Put a real executable first on PATH: `fake_tool("packer", "echo v1.6.6")` returns a FakeTool.

    The script is `sh`; `FakeTool.calls` are the argument lists it was started with. `fake_tool.only()` leaves
    nothing else on PATH, so that a tool that was not faked is missing.
    """
    return FakeTools(tmp_path / "fake-tools", monkeypatch)

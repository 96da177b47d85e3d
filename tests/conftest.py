"""Fixtures that every layer of tests uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.packer import PLUGINS
from tests import packers
from tests.fakes import FakeTools


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each Packer at hand really did in these tests, and which were not found."""
    reports = [report for group in terminalreporter.stats.values() for report in group]
    done = packers.done(reports)
    if not done and not any({"aws", "vm"} & set(getattr(report, "keywords", ())) for report in reports):
        return
    terminalreporter.section("Packers")
    for name, path in packers.paths().items():
        for target in PLUGINS:
            did = " and ".join(sorted(done.get((name, target), ()), reverse=True))
            told = did or f"not tried: {packers.why_not(path, target) or 'no test of this run uses it'}"
            terminalreporter.line(f"{name:12} {target:5} {told}")


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

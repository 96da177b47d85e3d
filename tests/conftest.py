"""Fixtures that every layer of tests uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import FakeTools


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

"""Real executables that stand in for programs, and write down how they were called."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

_HEADER = """\
#!/bin/sh
(printf '\\036'; for argument in "$@"; do printf '%s\\037' "$argument"; done) >>'{log}'
"""


@dataclass(frozen=True)
class FakeTool:
    """One fake program on PATH; its `path` is a `sh` script."""

    path: Path
    log: Path

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call so far, without the program's name."""
        if not self.log.exists():
            return []
        records = self.log.read_text().split("\036")[1:]
        return [record.split("\037")[:-1] for record in records]


class FakeTools:
    """The folder of fake programs of one test, first on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._monkeypatch = monkeypatch
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def __call__(self, name: str, script: str = "exit 0") -> FakeTool:
        """Write the program `name`: `script` is what it does after it wrote down its arguments."""
        tool = FakeTool(self.folder / name, self.folder / f".{name}.calls")
        tool.path.write_text(_HEADER.format(log=tool.log) + script + "\n")
        tool.path.chmod(0o755)
        return tool

    def only(self) -> None:
        """Hide every other program of the user's PATH."""
        self._monkeypatch.setenv("PATH", str(self.folder))

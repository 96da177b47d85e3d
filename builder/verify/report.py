"""What `verify` found: frozen, as a table for people and as JSON for the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from builder.console import format_seconds
from builder.record import Profile, verifier

SCHEMA = 1
COLUMNS = ("check", "result", "took", "evidence")
_CELL = 160


@dataclass(frozen=True)
class CheckResult:
    """How one check ended; `evidence` says what was seen, never a secret."""

    name: str
    description: str
    passed: bool
    evidence: str
    seconds: float = 0.0


@dataclass(frozen=True)
class VerifyReport:
    """All checks of one image; `seconds_to_ready` is from power-on to the first 200 of /readyz."""

    image: str
    profile: Profile
    accelerator: str
    started: str
    seconds: float
    checks: tuple[CheckResult, ...]
    boots: Mapping[str, float] = field(default_factory=dict)
    """Boot → seconds from power-on until it was ready."""
    logs: str | None = None
    """Where the logs of a failed check are."""
    verifier: str = field(default_factory=verifier)
    """sha256 of the code that tried it."""
    schema: int = SCHEMA

    @property
    def passed(self) -> bool:
        """Whether every check passed, and there was at least one."""
        return bool(self.checks) and not self.failed

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def seconds_to_ready(self) -> float | None:
        """Seconds from power-on of a fresh instance to ready."""
        return self.boots.get("fresh")

    @property
    def summary(self) -> str:
        """One line: how many checks passed, and how fast a fresh instance was ready."""
        ready = self.seconds_to_ready
        speed = f"; ready {format_seconds(ready)} after power-on" if ready is not None else ""
        passed = len(self.checks) - len(self.failed)
        return f"{passed} of {len(self.checks)} checks passed in {format_seconds(self.seconds)}{speed}"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return the rows of a table with `COLUMNS`; long evidence is cut there, but not in the JSON."""
        return [
            (
                check.name,
                "ok" if check.passed else "FAILED",
                format_seconds(check.seconds),
                _cut(check.evidence) if check.passed else check.evidence,
            )
            for check in self.checks
        ]

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON gives back: a record equals itself, written and read again."""
        values = {**asdict(self), "checks": [asdict(check) for check in self.checks]}
        return {**values, "passed": self.passed, "seconds_to_ready": self.seconds_to_ready}


def read_report(raw: Mapping[str, Any]) -> VerifyReport:
    """Read a report as `to_json` writes it; KeyError or TypeError when it is something else."""
    values = {name: value for name, value in raw.items() if name not in ("passed", "seconds_to_ready")}
    values.setdefault("verifier", "")
    values["checks"] = tuple(CheckResult(**check) for check in values["checks"])
    return VerifyReport(**values)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CELL else line[: _CELL - 1] + "…"

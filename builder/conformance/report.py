"""What a conformance run found: one result for each case, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What happened in one case; numbers count recipients, because each of them is a delivery of its own."""

    client: tuple[str, ...]
    """The final reply to each message, as the client saw it."""
    accepted: int
    delivered: int
    queued: int
    bounced: int
    """Accepted, and neither delivered nor in the queue."""
    duplicates: int
    auths: int
    leaks: int
    """AUTH commands in the clear, or to someone whose certificate must not be trusted."""
    offered: int
    """MAIL commands that the provider got."""
    reasons: tuple[str, ...]
    """Why what is queued waits, in Postfix's words."""


@dataclass(frozen=True)
class CaseResult:
    """One case: `problems` is empty when it passed; `skipped` says why it was not run."""

    name: str
    title: str
    problems: tuple[str, ...] = ()
    skipped: str = ""
    seconds: float = 0.0
    at_fault: Outcome | None = None
    """While the fault lasted."""
    repaired: Outcome | None = None
    """After it ended and the queue was flushed."""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it ran and everything was as expected."""
        return not self.problems and not self.skipped


@dataclass(frozen=True)
class Report:
    """A run of the suite against one relay."""

    relay: str
    postfix: str
    results: Sequence[CaseResult] = field(default_factory=tuple)

    @property
    def passed(self) -> bool:
        """Whether no case failed; skipped ones do not count as failed."""
        return not any(result.problems for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; `passed` of the whole run and of each case among them."""
        cases = [{**asdict(result), "passed": result.passed} for result in self.results]
        return {"relay": self.relay, "postfix": self.postfix, "passed": self.passed, "cases": cases}

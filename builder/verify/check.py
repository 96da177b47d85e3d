"""A check: a name, a sentence, and a function that returns its evidence or raises CheckFailed."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Callable
from dataclasses import dataclass

from builder.config import RelayConfig
from builder.errors import BuilderError
from builder.verify.relay import CheckFailed, Relay, first_line
from builder.verify.report import CheckResult

Run = Callable[[Relay], str]
Applies = Callable[[RelayConfig], bool]


def _always(_config: RelayConfig) -> bool:
    return True


@dataclass(frozen=True)
class Check:
    """One promise about a relay; `run` returns what was seen."""

    name: str
    description: str
    run: Run
    applies: Applies = _always
    """Whether a configuration has what it is about."""

    def result(self, relay: Relay) -> CheckResult:
        """Run it; whatever a relay can do to it ends in a result, not in an exception."""
        started = time.monotonic()
        try:
            evidence, passed = self.run(relay), True
        except CheckFailed as failed:
            evidence, passed = failed.message, False
        except BuilderError as error:
            evidence, passed = first_line(error), False
        except (OSError, smtplib.SMTPException, ValueError) as error:
            evidence, passed = f"{type(error).__name__}: {error}", False
        return CheckResult(self.name, self.description, passed, evidence, time.monotonic() - started)

    def not_run(self, reason: str) -> CheckResult:
        """Return a failed result for a check that could not be tried."""
        return CheckResult(self.name, self.description, False, f"not run: {reason}")


def check(name: str, *, applies: Applies = _always) -> Callable[[Run], Check]:
    """Make a check of a function whose text is "Prove that …": the rest is the check's description."""

    def made(run: Run) -> Check:
        text = (run.__doc__ or "").partition("\n")[0]
        return Check(name, text.removeprefix("Prove that ").rstrip("."), run, applies)

    return made

"""Run the checks of a profile, with as few boots as they need."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from builder import console, hygiene
from builder.config import RelayConfig
from builder.errors import BuilderError
from builder.launch import DiskGuest, Launcher
from builder.record import Profile
from builder.verify import clone, faults, fresh, restart, submission, trouble
from builder.verify.check import Check
from builder.verify.evidence import collect
from builder.verify.relay import Relay, first_line
from builder.verify.report import CheckResult
from builder.verify.world import boot_user_data, make_stand_ins, sample_logins

FIRST_BOOT: Mapping[Profile, tuple[Check, ...]] = {
    "short": (*fresh.CHECKS, *submission.CHECKS),
    **dict.fromkeys(
        ("standard", "full"), (*fresh.CHECKS, *submission.CHECKS, *trouble.CHECKS, *restart.CHECKS)
    ),
}
SECOND_BOOT: Mapping[Profile, tuple[Check, ...]] = {
    "short": (),
    "standard": clone.CHECKS,
    "full": (*clone.CHECKS, *faults.CHECKS),
}


@dataclass
class Run:
    """One verification while it goes on."""

    image: Path
    config: RelayConfig
    profile: Profile
    launcher: Launcher
    logs: Path
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    results: list[CheckResult] = field(default_factory=list)
    boots: dict[str, float] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)

    @property
    def has_failed(self) -> bool:
        """Whether a check failed so far."""
        return any(not result.passed for result in self.results)

    def add(self, result: CheckResult) -> None:
        """Keep a result and say it."""
        self.results.append(result)
        mark = "✓" if result.passed else "✗"
        seconds = console.format_seconds(result.seconds)
        console.say(f"{mark} {result.name} ({seconds})" + ("" if result.passed else f": {result.evidence}"))


def check_sealed(run: Run, image_format: str) -> None:
    """Look into the finished image from outside; one result for each assertion of `hygiene`."""
    started = time.monotonic()
    names = {name: description for name, (description, _find) in hygiene.ASSERTIONS.items()}
    try:
        found = hygiene.inspect_image(run.image, image_format=image_format)
    except BuilderError as error:
        for name, description in names.items():
            run.add(CheckResult(f"sealed: {name}", description, False, f"not run: {first_line(error)}"))
        return
    # They share one pass over the disk, so each has its part of the time.
    seconds = (time.monotonic() - started) / len(found)
    for each in found:
        run.add(CheckResult(f"sealed: {each.name}", each.description, each.holds, each.evidence, seconds))


def check_first_boot(run: Run) -> None:
    """Boot a fresh instance whose secret is there, and run its checks."""
    _boot(run, "fresh", FIRST_BOOT[run.profile], has_secret=True)


def check_second_boot(run: Run) -> None:
    """Boot a second instance, before its secret is there, and run its checks."""
    if SECOND_BOOT[run.profile]:
        _boot(run, "second", SECOND_BOOT[run.profile], has_secret=False)


def _boot(run: Run, boot: str, all_checks: Sequence[Check], *, has_secret: bool) -> None:
    checks = [each for each in all_checks if each.applies(run.config)]
    try:
        with _relay(run, boot, has_secret=has_secret) as relay:
            relay.identity = run.identity
            _run_checks(run, relay, boot, checks)
            run.identity = relay.identity
    except BuilderError as error:
        # The guest could not even be started; what was checked so far stays in the report.
        done = {result.name for result in run.results}
        for each in checks:
            if each.name not in done:
                run.add(each.not_run(error.message))


@contextlib.contextmanager
def _relay(run: Run, boot: str, *, has_secret: bool) -> Iterator[Relay]:
    config, logins = run.config, sample_logins(run.config)
    with make_stand_ins(config, logins) as stand_ins:
        for name in () if has_secret else logins.secrets:
            stand_ins.secrets.delete(name)
        user_data = boot_user_data(config, stand_ins)
        with run.launcher(run.image, user_data=user_data, login=True, logs=run.logs / boot) as guest:
            yield Relay(guest, stand_ins, config, logins)


def _run_checks(run: Run, relay: Relay, boot: str, checks: Sequence[Check]) -> None:
    """Run checks in order. The first is the boot itself: without it the others cannot be tried."""
    for number, each in enumerate(checks):
        result = each.result(relay)
        run.add(result)
        if not result.passed:
            collect(relay.guest, run.logs / boot, hide=list(relay.traces.values()))
        if number == 0 and not result.passed:
            for left in checks[1:]:
                run.add(left.not_run(f"`{each.name}` failed"))
            return
        _note_boot(run, relay.guest, boot, each)
        if number == 0 and boot == "fresh":
            with contextlib.suppress(BuilderError):
                relay.identity = clone.read_identity(relay)


def _note_boot(run: Run, guest: DiskGuest, boot: str, check: Check) -> None:
    seconds = guest.time_to_ready
    if seconds is not None and check.name in ("ready", "power-cut", "secret-arrives"):
        run.boots[boot if check.name == "ready" else check.name] = round(seconds, 1)

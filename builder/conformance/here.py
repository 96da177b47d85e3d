"""Run the suite on a private Postfix of this machine, or in the tree of another release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from builder import process
from builder.conformance.case import Case
from builder.conformance.report import CaseResult, Report
from builder.conformance.runner import run_cases
from builder.conformance.setups import SETUPS, Setup, running
from builder.errors import BuilderError
from builder.releases import RELEASES, Release
from builder.scratch import Scratch


def run_here(
    cases: Sequence[Case],
    *,
    root: Path = Path("/"),
    progress: Callable[[CaseResult], None] = lambda _result: None,
) -> Report:
    """Run cases on a private Postfix, one instance for each setup that they need. Errors: BuilderError."""
    release = installed_release(root)
    results: list[CaseResult] = []
    version = ""
    for setup in dict.fromkeys(case.setup for case in cases):
        mine = [case for case in cases if case.setup == setup]
        why = lacking(SETUPS[setup], root)
        if why:
            skipped = [CaseResult(case.name, case.title, skipped=why) for case in mine]
            results += skipped
            for result in skipped:
                progress(result)
            continue
        with (
            Scratch("conformance") as folder,
            running(SETUPS[setup], release, folder, root=root) as bed,
        ):
            report = run_cases(bed.relay, bed.upstreams, mine, progress=progress)
            results += report.results
            version = report.postfix
    return Report(f"Postfix in {root}", version, tuple(results))


def lacking(setup: Setup, root: Path) -> str:
    """Say what a setup needs that is not installed; empty when nothing is missing."""
    if "dkim" in setup.config and not (root / "usr/sbin/opendkim").exists():
        return "OpenDKIM is not installed: `apt-get install opendkim`"
    return ""


def installed_release(root: Path) -> Release:
    """Return the newest known release whose Postfix is not newer than the one in a tree.

    Errors: BuilderError when Postfix is missing or older than all of them.
    """
    if not (root / "usr/sbin/postconf").exists():
        raise BuilderError(
            f"There is no Postfix in `{root}`: no `{root / 'usr/sbin/postconf'}`",
            hint="Run `sudo apt-get install postfix`"
            if root == Path("/")
            else f"Run `chroot {root} apt-get install postfix`, or name another tree",
        )
    inside = [] if root == Path("/") else ["chroot", str(root)]
    version = process.run([*inside, "postconf", "-dh", "mail_version"]).stdout.strip()
    series = tuple(int(part) for part in version.split(".")[:2])
    known = [release for release in RELEASES.values() if release.postfix_version <= series]
    if not known:
        raise BuilderError(f"Postfix {version} is older than every release that builder knows")
    return max(known, key=lambda release: release.postfix_version)

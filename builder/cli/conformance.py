"""`builder conformance`: every fault that a relay meets, tried on this machine's Postfix."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder import console
from builder.cli.options import json_option
from builder.cli.verbs import Verb
from builder.errors import BuilderError

if TYPE_CHECKING:
    from builder.conformance.case import Case
    from builder.conformance.report import CaseResult, Report
    from builder.releases import Release


@click.command(cls=Verb, example="sudo builder conformance\nsudo builder conformance starttls-stripped")
@click.argument("names", metavar="[CASE]...", nargs=-1)
@click.option("--list", "only_list", is_flag=True, help="List the cases, and stop.")
@click.option("--release", metavar="NAME", help="Whose parameters are tried; without it, this Postfix's.")
@json_option
def command(names: tuple[str, ...], only_list: bool, release: str | None, as_json: bool) -> None:
    """Try the rendered configuration on a private Postfix, fault by fault, with a scripted provider.

    For each fault: what client and provider saw, and what is in the queue. The machine's own Postfix
    is not touched. Needs root; ends with 1 when a case fails.
    """
    from builder.conformance import CASES

    chosen = [case for case in CASES if not names or case.name in names]
    unknown = set(names) - {case.name for case in chosen}
    if unknown:
        raise BuilderError(f"There is no case `{min(unknown)}`", hint="See `builder conformance --list`")
    if only_list:
        _list(chosen, as_json)
        return
    if os.geteuid() != 0:
        raise BuilderError(
            "Only root can run a private Postfix in a namespace of its own", hint="Run it with `sudo`"
        )
    _report(list(_run(chosen, _release(release))), as_json)


def _list(cases: Sequence[Case], as_json: bool) -> None:
    if as_json:
        console.out_json([{"name": case.name, "title": case.title, "setup": case.setup} for case in cases])
    else:
        console.out_table(("CASE", "WHAT IS TRIED"), [(case.name, case.title) for case in cases])


def _run(cases: Sequence[Case], release: Release) -> Iterator[Report]:
    """Run the cases of each setup on a relay of its own."""
    from builder.conformance.runner import run_cases
    from builder.conformance.setups import SETUPS, running

    for setup in dict.fromkeys(case.setup for case in cases):
        with (
            tempfile.TemporaryDirectory(prefix="builder-conformance-") as folder,
            console.step(f"Setup `{setup}`") as step,
            running(SETUPS[setup], release, Path(folder)) as bed,
        ):
            of_setup = [case for case in cases if case.setup == setup]
            yield run_cases(
                bed.relay, bed.upstreams, of_setup, progress=lambda result: step.note(_line(result))
            )


def _report(reports: Sequence[Report], as_json: bool) -> None:
    results = [result for report in reports for result in report.results]
    if as_json:
        console.out_json([report.to_json() for report in reports])
    else:
        rows = [(result.name, _verdict(result), "; ".join(result.problems)) for result in results]
        console.out_table(("CASE", "RESULT", "WHAT WAS WRONG"), rows)
    failed = [result.name for result in results if result.problems]
    if failed:
        raise BuilderError(f"{len(failed)} of {len(results)} cases failed: {', '.join(failed)}")
    console.say(f"All {len(results)} cases passed on Postfix {reports[0].postfix}")


def _line(result: CaseResult) -> str:
    return f"{result.name}: {_verdict(result)}"


def _verdict(result: CaseResult) -> str:
    if result.skipped:
        return f"not run: {result.skipped}"
    return "ok" if result.passed else "FAILED"


def _release(name: str | None) -> Release:
    """Return the release of that name, or the newest whose Postfix is not newer than the one here."""
    from builder import process
    from builder.releases import RELEASES, get_release

    if name is not None:
        return get_release(name)
    postconf = process.find_tool("postconf", to="try the configuration", install="apt-get install postfix")
    series = tuple(
        int(part) for part in process.tool_version(postconf, ["-dh", "mail_version"]).split(".")[:2]
    )
    known = [release for release in RELEASES.values() if release.postfix_version <= series]
    if not known:
        raise BuilderError(f"No release that builder knows has a Postfix as old as `{postconf}`")
    return max(known, key=lambda release: release.postfix_version)

"""`builder conformance`: every fault that a relay meets, tried on this machine's Postfix."""

from __future__ import annotations

import os
from collections.abc import Sequence
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


def _complete_case(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Complete the names of the cases; one that was given is not offered again."""
    from builder.conformance import CASES

    given = ctx.params.get("names") or ()
    return [case.name for case in CASES if case.name.startswith(begun) and case.name not in given]


@click.command(cls=Verb, example="sudo builder conformance\nsudo builder conformance starttls-stripped")
@click.argument("names", metavar="[CASE]...", nargs=-1, shell_complete=_complete_case)
@click.option("--list", "only_list", is_flag=True, help="List the cases, and stop.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="/",
    help="The tree of another release, whose Postfix is tried.",
)
@json_option
def command(names: tuple[str, ...], only_list: bool, root: Path, as_json: bool) -> None:
    """Try the rendered configuration on a private Postfix, fault by fault, with a scripted provider.

    For each fault: what client and provider saw, and what is in the queue. The machine's own Postfix
    is not touched. Needs root; ends with 1 when a case fails.
    """
    from builder.conformance import CASES
    from builder.conformance.here import run_here

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
    with console.step(f"Try {len(chosen)} cases") as step:
        report = run_here(chosen, root=root, progress=lambda result: step.note(_line(result)))
    _report(report, as_json)


def _list(cases: Sequence[Case], as_json: bool) -> None:
    if as_json:
        console.out_json([{"name": case.name, "title": case.title, "setup": case.setup} for case in cases])
    else:
        console.out_table(("CASE", "WHAT IS TRIED"), [(case.name, case.title) for case in cases])


def _report(report: Report, as_json: bool) -> None:
    results = report.results
    if as_json:
        console.out_json(report.to_json())
    else:
        rows = [(result.name, _verdict(result), "; ".join(result.problems)) for result in results]
        console.out_table(("CASE", "RESULT", "WHAT WAS WRONG"), rows)
    failed = [result.name for result in results if result.problems]
    if failed:
        raise BuilderError(f"{len(failed)} of {len(results)} cases failed: {', '.join(failed)}")
    console.say(f"All {len(results)} cases passed on Postfix {report.postfix}")


def _line(result: CaseResult) -> str:
    return f"{result.name}: {_verdict(result)}"


def _verdict(result: CaseResult) -> str:
    if result.skipped:
        return f"not run: {result.skipped}"
    return "ok" if result.passed else "FAILED"

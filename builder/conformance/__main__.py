"""`python -m builder.conformance`: the suite on a private Postfix of this machine, as root."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from builder import console
from builder.conformance import CASES
from builder.conformance.case import Case
from builder.conformance.here import run_here
from builder.conformance.report import CaseResult
from builder.errors import BuilderError


@click.command()
@click.argument("names", nargs=-1)
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), help="Tree of another release.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(names: tuple[str, ...], root: Path, as_json: bool) -> None:
    """Try every fault on a real Postfix, or only the cases of those NAMES. Exit code 1 when one fails."""
    try:
        report = run_here(_chosen(names), root=root, progress=_say)
    except BuilderError as error:
        console.fail(error)
        sys.exit(1)
    if as_json:
        console.out_json(report.to_json())
    else:
        rows = [[result.name, _verdict(result), result.title] for result in report.results]
        console.out_table(["case", "result", "what it proves"], rows)
    sys.exit(0 if report.passed else 1)


def _chosen(names: tuple[str, ...]) -> list[Case]:
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            raise BuilderError(f"There is no case `{name}`", hint=f"Cases: {', '.join(known)}")
    return [known[name] for name in names] if names else list(CASES)


def _say(result: CaseResult) -> None:
    console.say(f"{'✓' if result.passed else '✗'} {result.name} ({console.format_seconds(result.seconds)})")


def _verdict(result: CaseResult) -> str:
    if result.skipped:
        return f"skipped: {result.skipped}"
    return "passed" if result.passed else "; ".join(result.problems)


if __name__ == "__main__":
    main()

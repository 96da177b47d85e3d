"""How quick the command line is: `--help` against importing click, and a bake answered from the record."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import harness

BUILDER = Path(sys.executable).with_name("builder")


def run(*command: str | Path) -> None:
    """Run a command to its end; CalledProcessError shows what it printed."""
    words = [str(word) for word in command]
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=3600)
    except subprocess.CalledProcessError as error:
        harness.note(error.stdout + error.stderr)
        raise


def help_times(runs: int) -> dict[str, list[float]]:
    """Measure `builder --help`, `import click`, and Python alone, in turns."""
    actions = {
        "help": partial(run, BUILDER, "--help"),
        "import_click": partial(run, sys.executable, "-c", "import click"),
        "python": partial(run, sys.executable, "-c", "pass"),
    }
    for warm in actions.values():
        warm()
    return harness.side_by_side(actions, runs=runs)


def repeat_times(runs: int, request: list[str]) -> list[float]:
    """Measure a bake whose image is there already; the first call makes it where it is not."""
    repeat = partial(run, BUILDER, "bake", *request)
    harness.note(f"builder bake {' '.join(request)} (makes the image if there is none)")
    repeat()
    return harness.side_by_side({"repeat": repeat}, runs=runs)["repeat"]


def main() -> None:
    """Measure and report."""
    parser = harness.arguments("The command line's own time.", runs=15)
    parser.add_argument("--request", default=os.environ.get("BENCH_BAKE", "--preset ses --base debian-12"))
    parser.add_argument("--no-bake", action="store_true", help="leave out the repeated bake")
    options = parser.parse_args()

    times = help_times(options.runs)
    result = {
        "help_vs_import_click": harness.ratio(times["help"], times["import_click"]),
        "help_seconds": harness.summary(times["help"]),
        "import_click_seconds": harness.summary(times["import_click"]),
        "python_seconds": harness.summary(times["python"]),
    }
    if not options.no_bake:
        repeated = repeat_times(min(options.runs, 5), options.request.split())
        result = {
            "repeat_seconds": harness.summary(repeated)["median"],
            "repeat": harness.summary(repeated),
            **result,
        }
    harness.report(result, as_json=options.json)


if __name__ == "__main__":
    main()

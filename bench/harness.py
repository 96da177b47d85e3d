"""What every benchmark shares: repeated runs, medians, the machine, and one JSON object as the result."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def arguments(about: str, *, runs: int) -> argparse.ArgumentParser:
    """Return a parser with `--json` and `--runs`; a benchmark adds its own."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--runs", type=int, default=runs, help=f"measurements of each (default {runs})")
    return parser


def seconds(action: Callable[[], object]) -> float:
    """Return how long one call takes, in seconds of wall clock."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def side_by_side(actions: Mapping[str, Callable[[], object]], *, runs: int) -> dict[str, list[float]]:
    """Measure the actions in turns, so that what else the machine does hits all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(runs):
        for name, action in actions.items():
            taken[name].append(seconds(action))
            note(f"{name}, run {turn + 1} of {runs}: {taken[name][-1]:.3f} s")
    return taken


def summary(taken: Sequence[float]) -> dict[str, Any]:
    """Return median, extremes and number of runs, in seconds."""
    return {
        "median": round(statistics.median(taken), 4),
        "min": round(min(taken), 4),
        "max": round(max(taken), 4),
        "runs": len(taken),
    }


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the ratio of two medians, to three places."""
    return round(statistics.median(over) / statistics.median(under), 3)


def machine() -> dict[str, Any]:
    """Describe the machine that measured, without its name or any path."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def report(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a benchmark's result with the machine: JSON on stdout, or `name  value` lines."""
    whole = {**result, "machine": machine()}
    if as_json:
        print(json.dumps(whole, indent=2))
        return
    for name, value in whole.items():
        print(f"{name:28} {value}")


def note(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()

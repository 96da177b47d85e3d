"""Every Packer at hand: the archive's, the one that `make packer` builds, and any that one names."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pytest

from builder import packer
from builder.errors import BuilderError
from builder.packer import PLUGINS, Packer, Target

Did = Literal["validated", "baked"]
_REPOSITORY = Path(__file__).resolve().parent.parent


def paths() -> dict[str, Path]:
    """Name where Packers are looked for; BUILDER_TEST_PACKERS is a list like PATH."""
    named = [Path(path) for path in os.environ.get("BUILDER_TEST_PACKERS", "").split(os.pathsep) if path]
    return {
        "archive": Path("/usr/bin/packer"),
        "make-packer": _REPOSITORY / ".tools" / "packer",
        **{str(path): path for path in named},
    }


def why_not(path: Path, target: Target) -> str | None:
    """Say why a Packer cannot be tried on a target; None when it can."""
    if not path.exists():
        return f"{path.name} is not there: run `make packer`" if ".tools" in path.parts else "is not there"
    try:
        found = packer.find(path)
    except BuilderError as error:
        return error.message
    return None if can(found, target) else f"{found.version} has no `{PLUGINS[target]}` plugin"


def require(name: str, target: Target) -> Packer:
    """Return a Packer by its name in `paths`, or skip the test, saying why it cannot be tried on a target."""
    path = paths()[name]
    reason = why_not(path, target)
    if reason:
        pytest.skip(f"Packer `{name}`, target `{target}`: {reason}")
    return packer.find(path)


def can(found: Packer, target: Target) -> bool:
    """Whether a Packer has the builder of a target."""
    return found.bundles_plugins or PLUGINS[target] in found.plugins()


def first(target: Target) -> str | None:
    """Name the first Packer at hand that can bake for a target; None when there is none."""
    return next((name for name, path in paths().items() if why_not(path, target) is None), None)


def note(request: pytest.FixtureRequest, name: str, target: Target, did: Did) -> None:
    """Note in a test's report what a Packer has really done in it, for the summary."""
    request.node.user_properties.append(("packer", [name, target, did]))


def done(reports: Iterable[object]) -> dict[tuple[str, str], set[str]]:
    """Gather the notes of the tests that passed, by the Packer's name and target."""
    found = defaultdict(set)
    for report in reports:
        if isinstance(report, pytest.TestReport) and report.when == "call" and report.passed:
            for kind, value in report.user_properties:
                if kind == "packer" and isinstance(value, list):
                    name, target, did = value
                    found[name, target].add(did)
    return found

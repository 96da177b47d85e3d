"""Every Packer at hand: the archive's, the one that `make packer` builds, and any that one names."""

from __future__ import annotations

import os
from pathlib import Path

from builder import packer
from builder.errors import BuilderError
from builder.packer import PLUGINS, Packer, Target

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


def can(found: Packer, target: Target) -> bool:
    """Whether a Packer has the builder of a target."""
    return found.bundles_plugins or PLUGINS[target] in found.plugins()

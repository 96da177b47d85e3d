"""What the tests on a real Postfix share."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import process
from builder.conformance.case import Case
from builder.conformance.here import installed_release
from builder.conformance.runner import run_case
from builder.conformance.setups import SETUPS, Bed, running
from builder.releases import Release


@pytest.fixture(scope="session")
def release() -> Release:
    """The newest release whose Postfix is not newer than the one installed here."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("needs root: a private Postfix runs in a namespace of its own")
    if not shutil.which("postconf", path=process.environment()["PATH"]) and not os.environ.get("CI"):
        pytest.skip("needs Postfix: `apt-get install postfix libsasl2-modules sasl2-bin`")
    return installed_release(Path("/"))


@pytest.fixture(scope="module")
def root() -> Path:
    """The tree whose Postfix is tried: this machine's own."""
    return Path("/")


@pytest.fixture(scope="module")
def bed_for(
    release: Release, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Bed]]:
    """Give the running relay of a setup; one at a time, kept until another is asked for."""
    with contextlib.ExitStack() as stack:
        held: dict[str, Bed] = {}

        def start(setup: str) -> Bed:
            if setup not in held:
                stack.close()
                held.clear()
                folder = tmp_path_factory.mktemp(setup)
                held[setup] = stack.enter_context(running(SETUPS[setup], release, folder, root=root))
            return held[setup]

        yield start


@pytest.fixture
def prove(bed_for: Callable[[str], Bed]) -> Callable[[Case], None]:
    """Give what runs one case and fails with all that was seen when the relay does not pass it."""

    def run(case: Case) -> None:
        bed = bed_for(case.setup)
        result = run_case(bed.relay, bed.upstreams, case)
        assert result.problems == (), f"{case.title}\n{result}\n{bed.relay.log()[-6000:]}"
        assert result.passed, result.skipped

    return run

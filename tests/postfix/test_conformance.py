"""The conformance suite on this machine's Postfix: every fault of facts 4.9, and more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import process
from builder.conformance import CASES
from builder.conformance.case import Case
from builder.conformance.runner import run_case
from builder.conformance.setups import SETUPS, Bed, running
from builder.releases import RELEASES, Release

pytestmark = pytest.mark.postfix


@pytest.fixture(scope="module")
def release() -> Release:
    """The release whose Postfix series is the one installed here."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("needs root: a private Postfix runs in a namespace of its own")
    if not shutil.which("postconf", path=process.environment()["PATH"]) and not os.environ.get("CI"):
        pytest.skip("needs Postfix: `apt-get install postfix libsasl2-modules`")
    version = process.run(["postconf", "-dh", "mail_version"]).stdout.strip()
    series = tuple(int(part) for part in version.split(".")[:2])
    return max(
        (known for known in RELEASES.values() if known.postfix_version <= series),
        key=lambda known: known.postfix_version,
    )


@pytest.fixture(scope="module")
def bed_for(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Bed]]:
    """Give the running relay of a setup; one at a time, kept until another is asked for."""
    held: dict[str, tuple[Bed, Iterator[None]]] = {}

    def start(name: str) -> Bed:
        if name not in held:
            stop_all()
            folder = tmp_path_factory.mktemp(name)
            manager = running(SETUPS[name], release, folder)
            held[name] = (manager.__enter__(), manager)  # type: ignore[assignment]
        return held[name][0]

    def stop_all() -> None:
        while held:
            _name, (_bed, manager) = held.popitem()
            manager.__exit__(None, None, None)  # type: ignore[attr-defined]

    yield start
    stop_all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, bed_for: Callable[[str], Bed]) -> None:
    bed = bed_for(case.setup)
    result = run_case(bed.relay, bed.upstreams, case)
    assert result.problems == (), f"{case.title}\n{result}\n{bed.relay.log()[-6000:]}"
    assert result.passed, result.skipped

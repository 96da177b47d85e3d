"""The conformance suite on this machine's Postfix: every fault of facts 4.9, and more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from builder.conformance import CASES
from builder.conformance.case import Case
from builder.conformance.runner import run_case
from builder.conformance.setups import SETUPS, Bed, running
from builder.releases import Release

pytestmark = pytest.mark.postfix


@pytest.fixture(scope="module")
def bed_for(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Bed]]:
    """Give the running relay of a setup; one at a time, kept until another is asked for."""
    with contextlib.ExitStack() as stack:
        held: dict[str, Bed] = {}

        def start(name: str) -> Bed:
            if name not in held:
                stack.close()
                held.clear()
                held[name] = stack.enter_context(
                    running(SETUPS[name], release, tmp_path_factory.mktemp(name))
                )
            return held[name]

        yield start


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, bed_for: Callable[[str], Bed]) -> None:
    bed = bed_for(case.setup)
    result = run_case(bed.relay, bed.upstreams, case)
    assert result.problems == (), f"{case.title}\n{result}\n{bed.relay.log()[-6000:]}"
    assert result.passed, result.skipped

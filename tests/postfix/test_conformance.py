"""The conformance suite on this machine's Postfix: every fault of facts 4.9, and more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from builder.conformance import CASES
from builder.conformance.case import Case

pytestmark = pytest.mark.postfix


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, prove: Callable[[Case], None]) -> None:
    prove(case)

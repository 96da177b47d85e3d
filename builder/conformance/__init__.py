"""The conformance suite: every fault that a relay meets, tried on a real Postfix with a scripted provider."""

from __future__ import annotations

from builder.conformance import (
    cases_dkim,
    cases_hygiene,
    cases_intake,
    cases_notices,
    cases_provider,
    cases_routes,
    cases_rules,
)
from builder.conformance.case import Case

__all__ = ["CASES"]

CASES: tuple[Case, ...] = (
    *cases_provider.CASES,
    *cases_intake.CASES,
    *cases_routes.CASES,
    *cases_rules.CASES,
    *cases_hygiene.CASES,
    *cases_notices.CASES,
    *cases_dkim.CASES,
)

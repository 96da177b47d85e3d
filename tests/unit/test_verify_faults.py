"""The conformance suite as checks of a booted image: which cases fit, and what a result says."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from builder.config import RelayConfig
from builder.conformance import CASES
from builder.conformance.report import CaseResult, Outcome
from builder.verify import faults, runner
from builder.verify.relay import CheckFailed

SES = {"preset": "ses", "region": "us-east-1"}


def _outcome(**counts: int) -> Outcome:
    nothing = dict.fromkeys(("accepted", "delivered", "queued", "bounced", "duplicates", "auths"), 0)
    return Outcome(client=(), reasons=(), leaks=0, offered=0, **{**nothing, **counts})


def _names(config: Mapping[str, object]) -> set[str]:
    made = RelayConfig.model_validate(config)
    return {each.name.removeprefix("fault: ") for each in faults.CHECKS if each.applies(made)}


def test_each_case_that_needs_no_other_configuration_is_a_check_of_the_full_profile() -> None:
    plain = {case.name for case in CASES if case.setup == "plain"}
    assert _names(SES) == plain
    assert set(faults.CHECKS) <= set(runner.SECOND_BOOT["full"])
    assert not set(faults.CHECKS) & set(runner.SECOND_BOOT["standard"])


def test_with_implicit_tls_there_is_no_starttls_to_strip() -> None:
    assert "starttls-stripped" in _names(SES)
    assert "starttls-stripped" not in _names({**SES, "upstream": {"port": 465}})


def test_a_result_says_where_the_mail_was_and_what_was_noted() -> None:
    waits, done = _outcome(accepted=3, delivered=2, queued=1), _outcome(accepted=3, delivered=3)
    result = CaseResult("x", "X", at_fault=waits, repaired=done, notes=("after 2 s",))
    assert faults._evidence(result) == (
        "meanwhile, of 3 recipients: 2 delivered, 1 waiting; then, of 3 recipients: 3 delivered; after 2 s"
    )


def test_a_case_about_answers_alone_says_so() -> None:
    nothing = _outcome()
    result = CaseResult("x", "X", at_fault=nothing, repaired=nothing)
    assert faults._evidence(result) == "each answer was as expected"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (CaseResult("x", "X", problems=("one is lost", "one is doubled")), "one is lost; one is doubled"),
        (CaseResult("x", "X", skipped="it cannot be stopped"), "not run: it cannot be stopped"),
    ],
)
def test_what_is_wrong_or_was_not_tried_is_a_failure(result: CaseResult, said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        faults._evidence(result)

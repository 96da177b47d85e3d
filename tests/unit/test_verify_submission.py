"""The check of the submission port passes on a good port, and fails on each thing that is wrong with one."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence

import pytest

from builder.config import RelayConfig
from builder.standin.journal import Message
from builder.verify import runner
from builder.verify.relay import CheckFailed, Relay
from builder.verify.submission import _SCRIPT, submission
from builder.verify.world import make_stand_ins, sample_logins
from tests.unit.test_verify_checks import AnswerGuest

PLAIN = {"preset": "ses", "region": "us-east-1"}
CONFIG = RelayConfig.model_validate({**PLAIN, "submission": {"secret": "relay/users"}})
GOOD = {"login_in_clear": False, "before_login": 554, "wrong_password": 535, "right_password": 235}


def _relay(answer: Mapping[str, object]) -> Relay:
    logins = sample_logins(CONFIG)
    guest = AnswerGuest({"ss -Hltn": "LISTEN 0 100 0.0.0.0:587", "^python3 -c": json.dumps(answer)})
    return Relay(guest, make_stand_ins(CONFIG, logins), CONFIG, logins)


@pytest.fixture(autouse=True)
def delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    def arrived(_relay: Relay, subjects: Sequence[str], *, timeout_seconds: float = 90) -> list[Message]:
        assert len(subjects) == 1
        return [
            Message(
                number=1, session=1, time=0, sender="a", recipients=("b",), content=b"", size=0, user="u",
                tls_version="TLSv1.3", reply="250 2.0.0 Ok", accepted=True,
            )
        ]  # fmt: skip

    monkeypatch.setattr(Relay, "wait_delivered", arrived)


def test_a_port_that_wants_tls_and_a_login_passes() -> None:
    evidence = submission.run(_relay(GOOD))
    assert evidence == "port 587: no AUTH before TLS; without login 554; then 250 2.0.0 Ok"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"login_in_clear": True}, "AUTH before TLS"),
        ({"before_login": 250}, "without a login a recipient got 250"),
        ({"wrong_password": 235}, "a wrong password got 235"),
        ({"right_password": 535}, "the right password got 535"),
    ],
)
def test_each_thing_that_is_wrong_fails(changes: dict[str, object], said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        submission.run(_relay({**GOOD, **changes}))


def test_the_password_is_in_no_argument() -> None:
    relay = _relay(GOOD)
    submission.run(relay)
    assert isinstance(relay.guest, AnswerGuest)
    assert not any(str(relay.logins.submission_password) in command for command in relay.guest.ran)


def test_it_is_tried_only_where_the_port_was_asked_for() -> None:
    assert submission.applies(CONFIG)
    assert not submission.applies(RelayConfig.model_validate(PLAIN))
    assert all(submission in runner.FIRST_BOOT[profile] for profile in ("short", "standard", "full"))


def test_the_script_is_python_without_single_quotes() -> None:
    ast.parse(_SCRIPT, feature_version=(3, 8))
    assert "'" not in _SCRIPT

"""When a relay asks for the account's rate and the size of its fleet, and what it knows meanwhile."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from relay_agent import rate
from relay_agent.pace import Bucket
from relay_agent.places import Places
from relay_agent.rate import Quota, Rate
from relay_agent.trouble import Trouble

from tests.agent.clock import Clock


def unknown() -> Any:
    """Stand for a source that does not answer."""
    raise Trouble("quota-unknown", "Nobody knows")


def test_the_account_is_asked_for_its_rate_more_rarely_than_the_group_is_counted(clock: Clock) -> None:
    asked, hint = {"account": 0, "relays": 0}, [0]

    def answer(what: str) -> Any:
        asked[what] += 1
        return 4

    share = Rate(
        "fleet",
        Bucket(clock),
        account=lambda: answer("account"),
        relays=lambda: answer("relays"),
        hint=lambda: hint[0],
        monotonic=clock,
    )
    for second in range(3600):
        # What writes the number of relays does so on all of them at once.
        hint[0] += second % 60 == 0
        share.check()
        clock.now += 1
    assert 9 < asked["account"] < 16
    assert 100 < asked["relays"] < 220


def test_who_may_not_count_the_group_asks_ever_more_rarely(clock: Clock) -> None:
    asked = []

    def denied() -> int:
        asked.append(clock.now)
        raise Trouble("quota-unknown", "not authorized")

    share = Rate("fleet", Bucket(clock), account=lambda: 4, relays=denied, monotonic=clock)
    for _ in range(7200):
        share.check()
        clock.now += 1
    assert len(asked) < 100
    assert share.trouble is not None


def test_what_the_account_may_send_is_known_again_after_a_restart(files: Places) -> None:
    quota = Quota(None, "ses_get_send_quota", "fleet", {"smtp": 100}, "email-smtp.us-east-1.amazonaws.com")
    assert rate.Account(files, quota, unknown).at_first() is None
    assert rate.Account(files, quota, lambda: 14.0).find() == 14.0
    assert rate.Account(files, quota, unknown).at_first() == 14.0
    elsewhere = replace(quota, host="email-smtp.eu-west-1.amazonaws.com")
    assert rate.Account(files, elsewhere, unknown).at_first() is None
    assert rate.Account(files, quota, lambda: None).find() is None
    assert rate.Account(files, quota, unknown).at_first() is None


@pytest.mark.parametrize("kept", ["", "7", "[]", '{"host": "h"}', '{"host": "h", "messages_per_second": -1}'])
def test_a_rate_that_was_kept_and_is_none_is_passed_over(files: Places, kept: str) -> None:
    files.account_rate.write_text(kept)
    account = rate.Account(
        files, Quota(None, "ses_get_send_quota", "fleet", {"smtp": 100}, "h"), lambda: 14.0
    )
    assert account.at_first() is None
    assert account.find() == 14.0
    assert account.at_first() == 14.0


def test_a_full_disk_does_not_cost_the_rate(files: Places) -> None:
    files.account_rate.mkdir()  # in the way of the rename
    quota = Quota(None, "ses_get_send_quota", "fleet", {"smtp": 100}, "h")
    assert rate.Account(files, quota, lambda: 14.0).find() == 14.0


@dataclass
class OneEachSecond:
    """Amazon SES answers one GetSendQuota a second and account, and throttles the others."""

    clock: Clock
    served: set[int] = field(default_factory=set)
    asked: list[float] = field(default_factory=list)
    throttled: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        self.asked.append(self.clock.now)
        if int(self.clock.now) in self.served:
            self.throttled.append(self.clock.now)
            raise Trouble("quota-unknown", "ses does not answer get_send_quota: Throttling")
        self.served.add(int(self.clock.now))
        return 40.0


def test_a_fleet_does_not_lock_itself_out_of_the_quota(clock: Clock) -> None:
    size = 80
    ses, spread = OneEachSecond(clock), random.Random(7).uniform  # noqa: S311
    relays = [
        Rate("fleet", Bucket(clock), account=ses, relays=lambda: size, monotonic=clock, spread=spread)
        for _ in range(size)
    ]
    began = clock.now
    paced_at: dict[int, float] = {}
    while clock.now < began + 3600:
        for number, relay in enumerate(relays):
            relay.check()
            if relay.own is not None:
                paced_at.setdefault(number, clock.now)
        clock.now += 1
    assert len(paced_at) == size
    # Even all started in the same second: each has its answer within what so many answers take, twice over.
    assert max(paced_at.values()) - began < 4 * size
    later = [at for at in ses.asked if at > began + 900]
    assert len(later) < 1.5 * size * 2700 / 300
    assert sum(at > began + 900 for at in ses.throttled) < 0.25 * len(later)

"""When a relay's queue counts as settled: postqueue shows it while it changes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from builder.conformance.relay import Relay
from builder.errors import BuilderError

WAITING = {"address": "to@example.net", "delay_reason": "454 later"}


def entry(queue_id: str, queue: str = "deferred", *recipients: dict[str, str]) -> str:
    return json.dumps({"queue_id": queue_id, "queue_name": queue, "recipients": recipients}) + "\n"


class Looks(Relay):
    """A relay whose queue is another at each look; the last one stays."""

    name, abilities = "looks", frozenset[str]()

    def __init__(self, *looks: str) -> None:
        self.looks, self.seen = looks, 0

    def run(self, argv: Sequence[str], *, check: bool = True, timeout_seconds: float = 60) -> str:
        self.seen += 1
        return self.looks[min(self.seen, len(self.looks)) - 1]

    def write_file(self, path: str, text: str, *, mode: int = 0o644) -> None:
        raise NotImplementedError

    def remove_file(self, path: str) -> None:
        raise NotImplementedError

    def start_postfix(self) -> None:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relay, "patience", 0.001)


def test_a_message_between_two_queues_is_waited_for() -> None:
    relay = Looks("", entry("A", "deferred", WAITING))
    assert [item.queue_id for item in relay.wait_until_settled(timeout_seconds=9000)] == ["A"]
    assert relay.seen == 3


def test_what_is_being_delivered_is_waited_for() -> None:
    relay = Looks(entry("A", "active", WAITING), entry("A", "active", WAITING), "")
    assert relay.wait_until_settled(timeout_seconds=9000) == []
    assert relay.seen == 4


def test_the_file_of_a_delivered_message_does_not_wait_for_anything() -> None:
    assert Looks(entry("A", "incoming")).wait_until_settled() == []


def test_a_queue_that_does_not_settle_is_told_with_what_is_in_it() -> None:
    with pytest.raises(BuilderError, match="did not settle within 0 s: active"):
        Looks(entry("A", "active", WAITING)).wait_until_settled()

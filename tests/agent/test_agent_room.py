"""Tests of room for the queue: what is short is said before Postfix refuses mail, in bytes and in files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from relay_agent import metrics, room
from relay_agent.places import Places
from relay_agent.room import Room, full, low

from tests.agent.relay_world import FakePostfix
from tests.agent.relayctl_world import Ctl, steps
from tests.agent.scripted_relay import REFUSED, Relay
from tests.fakes import FakeTools

MIB = 2**20
MESSAGE = 29_000_000
PLENTY = Room(free_bytes=5000 * MIB, size_bytes=8000 * MIB, free_files=400_000, files=500_000)


def with_room(**changes: int | bool) -> Room:
    return Room(**{**PLENTY.__dict__, **changes})


@pytest.mark.parametrize(
    ("found", "is_full", "is_low"),
    [
        (PLENTY, None, None),
        (with_room(free_bytes=300 * MIB), None, "disk-low"),
        (with_room(free_bytes=40 * MIB), "disk-full", "disk-low"),
        (with_room(free_files=10_000), None, "inodes-low"),
        (with_room(free_files=50), "inodes-full", "inodes-low"),
        (with_room(free_files=0, files=0), None, None),
        (with_room(is_read_only=True), "disk-read-only", None),
        (with_room(size_bytes=10**6 * MIB, free_bytes=2000 * MIB), None, None),
        (Room(free_bytes=50 * MIB, size_bytes=100 * MIB, free_files=9000, files=10_000), None, "disk-low"),
    ],
)
def test_what_is_short_has_a_name(found: Room, is_full: str | None, is_low: str | None) -> None:
    troubles = full(found, MESSAGE), low(found, MESSAGE)
    assert [trouble and trouble.code for trouble in troubles] == [is_full, is_low]
    assert all(trouble.hint for trouble in troubles if trouble)


def test_the_file_system_is_asked(tmp_path: Path) -> None:
    found, expected = room.look(tmp_path), os.statvfs(tmp_path)
    assert found.size_bytes == expected.f_blocks * expected.f_frsize
    assert found.files == expected.f_files


Scarcity = Callable[[Room], None]


@pytest.fixture
def scarcity(monkeypatch: pytest.MonkeyPatch) -> Scarcity:
    """Say what the file system of the queue has left."""

    def have(found: Room) -> None:
        monkeypatch.setattr(room, "look", lambda _folder: found)

    have(PLENTY)
    return have


@pytest.fixture
def relay(places: Places, postfix_programs: FakePostfix, scarcity: Scarcity) -> Relay:
    return Relay(places, postfix_programs)


@pytest.mark.parametrize(
    ("short", "code"),
    [
        ({"free_files": 20}, "inodes-full"),
        ({"free_bytes": 0}, "disk-low"),
        ({"is_read_only": True}, "disk-read-only"),
    ],
)
def test_a_relay_goes_from_ready_to_short_and_back(
    relay: Relay, scarcity: Scarcity, short: dict[str, int], code: str
) -> None:
    relay.rounds()
    assert relay.state == "ready"
    scarcity(with_room(**short))
    relay.rounds(1, seconds=2)
    # The fake Postfix names no limit: without room for a message it is still only low.
    assert (relay.state, relay.reason) == ("degraded" if code == "disk-low" else "full", code)
    assert relay.board.readiness()["accepting"] is (code == "disk-low")
    assert relay.postfix.is_open
    scarcity(PLENTY)
    relay.rounds(1, seconds=2)
    assert relay.state == "ready"


def test_the_largest_message_counts(relay: Relay, scarcity: Scarcity, fake_tool: FakeTools) -> None:
    postconf = relay.postfix.postconf.path
    postconf.write_text(postconf.read_text() + f"[ $1 = -xh ] && echo {MESSAGE}\nexit 0\n")
    relay.rounds()
    scarcity(with_room(free_bytes=MESSAGE))
    relay.rounds(1, seconds=2)
    assert (relay.state, relay.reason) == ("full", "disk-full")
    assert "there is no room to take mail" in relay.board.readiness()["message"]


def test_the_state_does_not_flutter_at_the_border(relay: Relay, scarcity: Scarcity) -> None:
    relay.rounds()
    states = set()
    for free in (99, 101, 99, 101, 110):
        scarcity(with_room(free_files=free))
        relay.rounds(1, seconds=2)
        states.add(relay.state)
    assert states == {"full"}
    scarcity(with_room(free_files=130))
    relay.rounds(1, seconds=2)
    assert relay.state == "degraded"


def test_a_missing_credential_is_named_before_a_disk_that_is_low(relay: Relay, scarcity: Scarcity) -> None:
    relay.rounds()
    relay.answers["password-1"] = REFUSED
    relay.agent.login_refused()
    scarcity(with_room(free_files=10_000))
    relay.rounds(1, seconds=11)
    assert (relay.state, relay.reason) == ("degraded", "auth-refused")


def test_the_room_is_a_metric_and_in_the_status(relay: Relay) -> None:
    relay.rounds()
    page = metrics.render(relay.board)
    assert f"relay_spool_free_bytes {5000 * MIB}" in page
    assert "relay_spool_free_inodes 400000" in page
    assert relay.status["room"]["files"] == 500_000


@pytest.mark.parametrize(
    ("found", "step", "evidence"),
    [
        (PLENTY, "inodes", "ok: 400000 of 500000 files free"),
        (
            with_room(free_files=20),
            "inodes",
            "wrong: 5000 MiB and 20 files free for the queue: Postfix",
        ),
        (with_room(free_files=10_000), "inodes", "warning: 5000 MiB and 10000 files free"),
        (with_room(free_bytes=0), "disk", "wrong: 0 MiB"),
        (with_room(is_read_only=True), "disk", "wrong: The file system of the queue is read-only"),
    ],
)
def test_doctor_has_a_line_for_it(
    places: Places,
    postfix_programs: FakePostfix,
    fake_tool: FakeTools,
    scarcity: Scarcity,
    found: Room,
    step: str,
    evidence: str,
) -> None:
    ctl = Ctl(places, postfix_programs, fake_tool)
    scarcity(found)
    text = ctl("doctor", "--offline", "--json")[1]
    assert any(line.startswith(evidence) for line in steps(text)[step]), steps(text)


def test_status_shows_the_room(places: Places, postfix_programs: FakePostfix, fake_tool: FakeTools) -> None:
    ctl = Ctl(places, postfix_programs, fake_tool)
    ctl.board.set(room=PLENTY.as_json())
    ctl.board.write()
    assert "5000 of 8000 MiB, 400000 of 500000 files free for the queue" in ctl("status")[1]

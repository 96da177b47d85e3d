"""Tests of the loop: what a rotation, a second upstream and draining do to Postfix."""

from __future__ import annotations

import threading

import pytest
from relay_agent.maillog import parse
from relay_agent.places import Places
from relay_agent.secret import CURRENT, SecretVersion
from relay_agent.settings import Upstream
from relay_agent.trouble import Trouble

from tests.agent.relay_world import FakePostfix, agent_json, upstream_json, write_json
from tests.agent.scripted_relay import AUTH_LINE, BUSY, REFUSED, Relay
from tests.fakes import FakeTools


@pytest.fixture
def relay(places: Places, postfix_programs: FakePostfix) -> Relay:
    return Relay(places, postfix_programs)


# -- rotation


def test_a_new_version_is_proven_before_it_replaces_the_old_one(relay: Relay) -> None:
    relay.rounds()
    relay.versions["relay/ses"] = ("v2", "password-2")
    reloads, flushes = relay.postfix.reloads, relay.postfix.flushes
    relay.rounds(1, seconds=67)
    assert relay.maps_at_probe[-1] == "localhost user:password-1\n"
    assert relay.map == "localhost user:password-2\n"
    assert (relay.postfix.reloads, relay.postfix.flushes) == (reloads + 1, flushes + 1)
    assert relay.state == "ready"
    assert relay.status["upstreams"][0]["counts"]["rotations"] == 1


def test_an_unchanged_version_is_neither_probed_nor_reloaded(relay: Relay) -> None:
    relay.rounds()
    reloads = relay.postfix.reloads
    relay.rounds(5, seconds=67)
    assert relay.fetches == 6
    assert relay.probes == ["password-1"]
    assert relay.postfix.reloads == reloads


def test_polls_have_jitter(relay: Relay) -> None:
    waits = set()
    for _ in range(6):
        relay.rounds()
        due = relay.agent._keepers[0].due
        waits.add(round(due - relay.now, 6))
        relay.now = due
    assert len(waits) == 6
    assert all(54 <= wait <= 66 for wait in waits)


@pytest.mark.parametrize("trouble", [REFUSED, BUSY], ids=["535", "454"])
def test_a_bad_new_version_is_refused_and_the_old_one_kept(relay: Relay, trouble: Trouble) -> None:
    relay.rounds()
    relay.versions["relay/ses"] = ("v2", "password-2")
    relay.answers["password-2"] = trouble
    reloads = relay.postfix.reloads
    relay.rounds(6, seconds=67)
    assert relay.map == "localhost user:password-1\n"
    assert relay.state == "ready"
    assert relay.postfix.reloads == reloads
    shown = relay.board.values()["upstreams"][0]
    assert shown["version_id"] == "v1"
    assert shown["reason"]["code"] == trouble.code
    assert shown["refused_version"] == ("v2" if trouble is REFUSED else None)
    assert relay.probes.count("password-2") == 6
    relay.versions["relay/ses"] = ("v3", "password-3")
    relay.rounds(1, seconds=67)
    assert relay.map == "localhost user:password-3\n"
    assert relay.board.values()["upstreams"][0]["refused_version"] is None


def test_a_new_version_of_the_wrong_shape_is_refused(relay: Relay) -> None:
    relay.rounds()
    relay.versions["relay/ses"] = ("v2", "")
    relay.rounds(1, seconds=67)
    shown = relay.board.values()["upstreams"][0]
    assert (shown["refused_version"], shown["reason"]["code"]) == ("v2", "secret-shape")
    assert relay.map == "localhost user:password-1\n"


def see_log(relay: Relay, line: str) -> None:
    event = parse("postfix/smtp", line)
    assert event is not None
    if relay.board.traffic.add(event):
        relay.agent.login_refused()


def test_a_535_in_the_log_makes_the_agent_look_early(relay: Relay) -> None:
    relay.rounds()
    relay.versions["relay/ses"] = ("v2", "password-2")
    relay.answers["password-1"] = REFUSED
    see_log(relay, AUTH_LINE)
    relay.rounds(1, seconds=11)
    assert relay.map == "localhost user:password-2\n"
    assert relay.state == "ready"


class SlowRelay(Relay):
    """While its next secret is fetched, the mail log tells of a refused login."""

    is_hinted = False

    def _fetch(self, upstream: Upstream, stage: str = CURRENT) -> SecretVersion:
        if self.is_hinted:
            self.is_hinted = False
            see_log(self, AUTH_LINE)
        return super()._fetch(upstream, stage)


def test_a_535_that_comes_while_the_agent_looks_makes_it_look_again(
    places: Places, postfix_programs: FakePostfix
) -> None:
    relay = SlowRelay(places, postfix_programs)
    relay.rounds()
    relay.answers["password-1"] = REFUSED
    relay.is_hinted = True
    relay.rounds(seconds=70)
    relay.rounds(seconds=5)
    assert (relay.state, relay.fetches) == ("ready", 2)
    relay.rounds(seconds=6)
    assert (relay.state, relay.fetches) == ("degraded", 3)


def test_a_storm_of_535_is_one_early_look(relay: Relay) -> None:
    relay.rounds()
    for _ in range(50):
        see_log(relay, AUTH_LINE)
        relay.rounds(1, seconds=0.1)
    assert relay.fetches == 1
    relay.rounds(1, seconds=10)
    assert relay.fetches == 2


def test_a_password_that_is_taken_away_degrades_the_relay_but_does_not_close_it(relay: Relay) -> None:
    relay.rounds()
    relay.answers["password-1"] = REFUSED
    see_log(relay, AUTH_LINE)
    relay.rounds(1, seconds=11)
    assert (relay.state, relay.reason) == ("degraded", "auth-refused")
    assert relay.postfix.is_open
    flushes = relay.postfix.flushes
    del relay.answers["password-1"]
    relay.rounds(1, seconds=61)
    assert relay.state == "ready"
    assert relay.postfix.flushes == flushes + 1


def test_secrets_manager_being_away_does_not_degrade_a_working_relay(relay: Relay) -> None:
    relay.rounds()
    relay.fetch_trouble = Trouble("endpoint-slow", "slow")
    relay.rounds(3, seconds=67)
    assert relay.state == "ready"
    assert relay.board.values()["upstreams"][0]["reason"]["code"] == "endpoint-slow"


def test_what_began_with_the_old_password_is_flushed_once_more(relay: Relay) -> None:
    """Its delivery fails after the first flush, which passes it over: it is still open."""
    relay.rounds(10, seconds=2)
    relay.versions["relay/ses"] = ("v2", "password-2")
    relay.rounds(1, seconds=67)
    flushes = relay.postfix.flushes
    relay.rounds(4, seconds=2)
    assert relay.postfix.flushes == flushes
    relay.rounds(1, seconds=2)
    assert relay.postfix.flushes == flushes + 1
    relay.rounds(20, seconds=2)
    assert relay.postfix.flushes == flushes + 1


def test_a_reload_that_fails_is_done_again(relay: Relay, fake_tool: FakeTools) -> None:
    relay.rounds()
    working = relay.postfix.postfix.path.read_text()
    relay.versions["relay/ses"] = ("v2", "password-2")
    reloads, flushes = relay.postfix.reloads, relay.postfix.flushes
    broken = fake_tool("postfix", "[ $1 = status ]")
    relay.rounds(2, seconds=67)
    assert (relay.state, relay.reason) == ("degraded", "postfix-config")
    assert relay.postfix.reloads == reloads + 2
    broken.path.write_text(working)
    relay.rounds(3, seconds=2)
    assert relay.state == "ready"
    assert relay.postfix.flushes == flushes + 1


def test_a_map_that_changed_while_nothing_greeted_reaches_postfix(relay: Relay) -> None:
    relay.rounds()
    relay.places.kernel_sockets[0].write_text("")
    broken = relay.postfix.postfix.path.read_text()
    relay.postfix.postfix.path.write_text("#!/bin/sh\nexit 1\n")
    relay.versions["relay/ses"] = ("v2", "password-2")
    relay.rounds(1, seconds=67)
    assert "password-2" in relay.map
    relay.postfix.postfix.path.write_text(broken)
    reloads = relay.postfix.reloads
    relay.rounds(3, seconds=2)
    assert relay.state == "ready"
    assert relay.postfix.reloads == reloads + 1


def test_a_postfix_that_starts_after_the_map_was_written_needs_no_reload(relay: Relay) -> None:
    relay.rounds(3, seconds=10)
    relay.postfix.stop()
    relay.versions["relay/ses"] = ("v2", "password-2")
    relay.rounds(1, seconds=67)
    assert relay.reason == "postfix-down"
    relay.postfix.start()
    reloads, flushes = relay.postfix.reloads, relay.postfix.flushes
    relay.rounds(3, seconds=2)
    assert relay.state == "ready"
    assert (relay.postfix.reloads, relay.postfix.flushes) == (reloads, flushes + 1)


def test_a_postfix_that_is_just_starting_is_given_time_to_bind_the_port(relay: Relay) -> None:
    relay.postfix.stop()
    relay.rounds(2)
    assert relay.reason == "postfix-down"
    assert relay.postfix.has_listener
    relay.postfix.start()
    opened = relay.places.kernel_sockets[0]
    table = opened.read_text()
    opened.write_text("")
    later = threading.Timer(0.3, opened.write_text, [table])
    later.start()
    relay.rounds(1)
    later.join()
    assert relay.postfix.is_open
    assert relay.postfix.reloads == 0
    relay.rounds(2)
    assert relay.state == "ready"


# -- several upstreams


@pytest.fixture
def two(relay: Relay) -> Relay:
    second = upstream_json(name="backup", host="backup.example.com", secret="relay/backup")
    write_json(relay.places.agent_json, agent_json(upstreams=[upstream_json(), second]))
    relay.versions["relay/backup"] = ("b1", "password-b")
    return relay


def test_each_upstream_has_its_line_in_the_map(two: Relay) -> None:
    two.rounds()
    assert two.state == "ready"
    assert two.map == "backup.example.com user:password-b\nlocalhost user:password-1\n"


def test_two_accounts_at_one_host_have_a_line_each(relay: Relay) -> None:
    second = upstream_json(name="news", account="to-news", secret="relay/news")
    write_json(relay.places.agent_json, agent_json(upstreams=[upstream_json(), second]))
    relay.versions["relay/news"] = ("n1", "password-n")
    relay.rounds()
    assert relay.state == "ready"
    assert relay.map == "localhost user:password-1\nto-news user:password-n\n"


def test_one_proven_upstream_is_enough_to_accept(two: Relay) -> None:
    two.answers["password-1"] = REFUSED
    two.rounds()
    assert (two.state, two.reason) == ("degraded", "auth-refused")
    assert two.postfix.is_open
    assert two.map == "backup.example.com user:password-b\n"


# -- draining


def test_draining_closes_the_port_and_flushes_once(relay: Relay) -> None:
    relay.rounds()
    flushes = relay.postfix.flushes
    relay.places.draining.touch()
    relay.rounds(3, seconds=2)
    assert relay.state == "draining"
    assert not relay.postfix.is_open
    assert relay.postfix.flushes == flushes + 1
    relay.places.draining.unlink()
    relay.rounds()
    assert relay.state == "ready"
    assert relay.postfix.is_open


def test_a_port_that_postfix_was_not_told_to_close_is_closed_in_the_next_round(
    relay: Relay, fake_tool: FakeTools
) -> None:
    relay.rounds()
    working = relay.postfix.postfix.path.read_text()
    broken = fake_tool("postfix", "[ $1 = status ]")
    relay.places.draining.touch()
    relay.rounds(2, seconds=2)
    assert not relay.postfix.has_listener
    assert relay.postfix.is_open
    broken.path.write_text(working)
    relay.rounds(1, seconds=2)
    assert relay.state == "draining"
    assert not relay.postfix.is_open


def test_a_port_that_cannot_be_closed_does_not_stop_rotations(relay: Relay, fake_tool: FakeTools) -> None:
    relay.rounds()
    fake_tool("postconf", "exit 1")
    fake_tool("postfix", "[ $1 = status ]")
    relay.places.draining.touch()
    relay.versions["relay/ses"] = ("v2", "password-2")
    relay.rounds(2, seconds=67)
    assert relay.map == "localhost user:password-2\n"


def test_a_fresh_machine_is_not_called_draining_after_it_was_taken_back(relay: Relay) -> None:
    relay.fetch_trouble = Trouble("secret-missing", "There is no secret", lasting=True)
    relay.places.draining.touch()
    relay.rounds()
    assert relay.state == "draining"
    relay.places.draining.unlink()
    relay.rounds()
    assert (relay.state, relay.reason) == ("starting", "secret-missing")
    assert not relay.postfix.is_open


def test_an_agent_that_is_started_again_goes_on_draining(relay: Relay) -> None:
    relay.rounds()
    relay.places.draining.touch()
    relay.rounds(2, seconds=2)
    relay.restart()
    relay.versions["relay/ses"] = ("v2", "password-2")
    relay.rounds(5, seconds=67)
    assert relay.state == "draining"
    assert not relay.postfix.has_listener
    assert not relay.postfix.is_open


def test_a_rotation_while_draining_reaches_postfix(relay: Relay) -> None:
    relay.rounds()
    relay.places.draining.touch()
    relay.rounds()
    relay.versions["relay/ses"] = ("v2", "password-2")
    relay.rounds(1, seconds=67)
    assert relay.map == "localhost user:password-2\n"
    assert not relay.postfix.is_open


def test_a_new_version_while_draining_with_postfix_down_is_no_other_trouble(relay: Relay) -> None:
    relay.rounds()
    relay.places.draining.touch()
    relay.rounds(3, seconds=10)
    relay.postfix.stop()
    relay.postfix.postqueue.path.write_text("#!/bin/sh\nexit 69\n")
    relay.versions["relay/ses"] = ("v2", "password-2")
    relay.rounds(1, seconds=67)
    assert "password-2" in relay.map
    assert (relay.state, relay.reason) == ("draining", "")

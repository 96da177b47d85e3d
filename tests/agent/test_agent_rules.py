"""Tests of the loop: when port 25 is open, what /readyz says, and what is told to whom."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from relay_agent import logs
from relay_agent.places import Places
from relay_agent.trouble import Trouble

from tests.agent.relay_world import FakePostfix, agent_json, upstream_json, write_json
from tests.agent.scripted_relay import BUSY, MISSING, REFUSED, Relay
from tests.fakes import FakeTools


@pytest.fixture
def relay(places: Places, postfix_programs: FakePostfix) -> Relay:
    return Relay(places, postfix_programs)


# -- a fresh machine


def test_a_fresh_relay_opens_after_the_credential_is_proven(relay: Relay) -> None:
    assert not relay.postfix.is_open
    relay.rounds()
    assert relay.state == "ready"
    assert relay.postfix.is_open
    assert relay.map == "localhost user:password-1\n"
    assert stat.S_IMODE(relay.places.sasl_map.stat().st_mode) == 0o600
    assert relay.probes == ["password-1"]
    assert relay.status["credential"]["version_id"] == "v1"
    assert relay.status["reason"] is None


def test_one_reload_is_enough_to_open(relay: Relay) -> None:
    relay.rounds(3)
    assert relay.postfix.reloads == 1


@pytest.mark.parametrize("trouble", [REFUSED, BUSY], ids=["535", "454"])
def test_a_fresh_relay_stays_closed_until_the_provider_accepts(relay: Relay, trouble: Trouble) -> None:
    relay.answers["password-1"] = trouble
    relay.rounds(5, seconds=61)
    assert (relay.state, relay.reason) == ("failed", trouble.code)
    assert not relay.postfix.has_listener
    assert not relay.places.been_ready.exists()
    assert relay.map == ""
    del relay.answers["password-1"]
    relay.rounds(1, seconds=61)
    assert relay.state == "ready"
    assert relay.postfix.is_open


def test_a_fresh_relay_stays_closed_without_its_secret_and_recovers(relay: Relay) -> None:
    relay.fetch_trouble = MISSING
    relay.rounds(1)
    assert (relay.state, relay.reason) == ("starting", "secret-missing")
    relay.rounds(8, seconds=61)
    assert (relay.state, relay.reason) == ("failed", "secret-missing")
    assert relay.board.readiness()["accepting"] is False
    relay.fetch_trouble = None
    relay.rounds(1, seconds=61)
    assert relay.state == "ready"


def test_the_deadline_changes_only_what_is_reported(relay: Relay) -> None:
    write_json(relay.places.agent_json, agent_json(boot_deadline_seconds=10))
    relay.fetch_trouble = MISSING
    relay.rounds(1)
    assert relay.state == "starting"
    relay.rounds(1, seconds=11)
    assert relay.state == "failed"
    fetches = relay.fetches
    relay.rounds(3, seconds=61)
    assert relay.fetches == fetches + 3


def test_tries_are_spread_and_capped(relay: Relay) -> None:
    relay.answers["password-1"] = REFUSED
    waits = []
    for _ in range(12):
        relay.rounds(1)
        due = relay.agent._keepers[0].due
        waits.append(due - relay.now)
        relay.now = due
    assert all(0.09 <= wait <= 60.01 for wait in waits)
    assert len(set(waits)) > 5
    assert len(relay.probes) == 12


def test_a_listener_in_master_cf_of_a_fresh_machine_is_closed_at_once(relay: Relay) -> None:
    (relay.postfix.folder / "listener").touch()
    relay.postfix.start()
    relay.fetch_trouble = MISSING
    relay.rounds()
    assert not relay.postfix.has_listener
    assert not relay.postfix.is_open


def test_a_copy_of_a_relays_disk_counts_as_fresh(relay: Relay) -> None:
    relay.rounds()
    relay.places.machine_id.write_text("ffffffffffffffffffffffffffffffff\n")
    relay.fetch_trouble = MISSING
    relay.reboot()
    relay.rounds()
    assert relay.state == "starting"
    assert not relay.postfix.is_open


def test_postfix_that_starts_later_is_waited_for(relay: Relay) -> None:
    relay.postfix.stop()
    relay.rounds()
    assert (relay.state, relay.reason) == ("starting", "postfix-down")
    assert relay.map == "localhost user:password-1\n"
    relay.postfix.start()
    relay.rounds()
    assert relay.state == "ready"
    assert relay.probes == ["password-1"]


# -- boot.json


def test_boot_json_is_waited_for_while_cloud_init_runs(relay: Relay) -> None:
    relay.places.boot_json.unlink()
    relay.rounds(3, seconds=1)
    assert (relay.state, relay.reason, relay.fetches) == ("starting", "boot-config-missing", 0)
    write_json(relay.places.boot_json, {"schema": 1})
    relay.rounds()
    assert relay.state == "ready"


@pytest.mark.parametrize("sign", ["result", "stage", "time"])
def test_boot_json_is_not_waited_for_in_vain(relay: Relay, sign: str) -> None:
    relay.places.boot_json.unlink()
    relay.places.cloud_init_result.parent.mkdir(parents=True)
    relay.rounds()
    assert relay.reason == "boot-config-missing"
    if sign == "result":
        relay.places.cloud_init_result.write_text("{}")
    elif sign == "stage":
        write_json(relay.places.cloud_init_status, {"v1": {"init": {"finished": 12.5}}})
    relay.rounds(1, seconds=200 if sign == "time" else 1)
    assert relay.state == "ready"


def test_a_broken_boot_json_is_reported_and_a_mended_one_used(relay: Relay) -> None:
    relay.places.boot_json.write_text("{")
    relay.rounds()
    assert (relay.state, relay.reason) == ("starting", "config-invalid")
    write_json(relay.places.boot_json, {"schema": 1})
    relay.rounds(1, seconds=1)
    assert relay.state == "ready"


def test_a_running_relay_goes_on_when_its_boot_json_is_broken(relay: Relay) -> None:
    relay.rounds()
    relay.places.boot_json.write_text("{")
    relay.rounds(1, seconds=100)
    assert (relay.state, relay.reason) == ("degraded", "config-invalid")
    assert relay.postfix.is_open
    assert relay.fetches == 2


def test_a_secret_that_is_named_nowhere_is_said(relay: Relay) -> None:
    write_json(relay.places.agent_json, agent_json(upstreams=[upstream_json(secret=None)]))
    relay.rounds()
    assert relay.reason == "secret-unnamed"
    write_json(relay.places.boot_json, {"schema": 1, "secret": "relay/ses"})
    relay.rounds()
    assert relay.state == "ready"


def test_boot_settings_reach_postfix_and_the_firewall_in_one_call_each(relay: Relay) -> None:
    boot = {
        "schema": 1,
        "hostname": "relay-1.example.com",
        "networks": ["192.0.2.0/24", "2001:db8::/32"],
        "upstream": {"port": 2525, "ca_pem": "-----BEGIN CERTIFICATE-----\nx\n"},
    }
    write_json(relay.places.boot_json, boot)
    relay.rounds()
    assert relay.state == "ready"
    assert [call[0] for call in relay.postfix.postconf.calls].count("-e") == 1
    assert relay.postfix.settings == [
        "myhostname=relay-1.example.com",
        "mynetworks=127.0.0.0/8 [::1]/128 192.0.2.0/24 [2001:db8::]/32",
        "relayhost=[localhost]:2525",
        f"smtp_tls_CAfile={relay.places.private_ca}",
    ]
    assert relay.places.private_ca.read_text().startswith("-----BEGIN CERTIFICATE")
    assert (relay.postfix.folder / "nft").read_text() == (
        "flush set inet relay networks4\n"
        "add element inet relay networks4 { 192.0.2.0/24 }\n"
        "flush set inet relay networks6\n"
        "add element inet relay networks6 { 2001:db8::/32 }\n"
    )


# -- a machine that has been ready


def test_after_a_reboot_mail_is_taken_at_once_and_queued(relay: Relay) -> None:
    relay.rounds()
    relay.fetch_trouble = Trouble("endpoint-unreachable", "no network yet")
    relay.reboot()
    relay.rounds()
    assert (relay.state, relay.reason) == ("degraded", "endpoint-unreachable")
    assert relay.board.readiness()["message"].startswith("degraded: accepting and queueing")
    assert relay.postfix.is_open
    assert relay.map == ""
    flushes = relay.postfix.flushes
    relay.fetch_trouble = None
    relay.rounds(1, seconds=61)
    assert relay.state == "ready"
    assert relay.map == "localhost user:password-1\n"
    assert relay.postfix.flushes == flushes + 1


def test_after_a_reboot_a_silent_provider_does_not_keep_the_credential_from_postfix(relay: Relay) -> None:
    relay.rounds()
    relay.answers["password-1"] = BUSY
    relay.reboot()
    relay.rounds()
    assert relay.state == "degraded"
    assert relay.map == "localhost user:password-1\n"


def test_after_a_reboot_a_refused_credential_is_not_put_in_use(relay: Relay) -> None:
    relay.rounds()
    relay.answers["password-1"] = REFUSED
    relay.reboot()
    relay.rounds()
    assert (relay.state, relay.reason) == ("degraded", "auth-refused")
    assert relay.map == ""


def test_an_agent_that_is_started_again_leaves_the_map_alone(relay: Relay) -> None:
    relay.rounds()
    relay.fetch_trouble = Trouble("endpoint-unreachable", "down")
    relay.restart()
    relay.rounds()
    assert relay.map == "localhost user:password-1\n"
    assert relay.postfix.is_open
    relay.fetch_trouble = None
    inode = relay.places.sasl_map.stat().st_ino
    relay.rounds(1, seconds=61)
    assert relay.state == "ready"
    assert relay.places.sasl_map.stat().st_ino == inode


def test_postfix_that_dies_makes_the_relay_unready_and_comes_back(relay: Relay) -> None:
    relay.rounds()
    relay.postfix.stop()
    relay.rounds()
    assert (relay.state, relay.reason) == ("failed", "postfix-down")
    assert relay.board.readiness()["accepting"] is False
    relay.postfix.start()
    relay.rounds()
    assert relay.state == "ready"


@pytest.mark.parametrize(("program", "code"), [("postconf", "postfix-config"), ("nft", "firewall")])
def test_after_a_reboot_settings_that_cannot_be_applied_do_not_keep_the_queue_from_being_delivered(
    relay: Relay, fake_tool: FakeTools, program: str, code: str
) -> None:
    """A disk that the queue has filled: `postconf -e` cannot write, and only delivery makes room."""
    relay.rounds()
    write_json(relay.places.boot_json, {"schema": 1, "networks": ["192.0.2.0/24"]})
    path = fake_tool.folder / program
    working = path.read_text()
    path.write_text(working.replace("\n", '\ncase "$1" in -e|-f) exit 1;; esac\n', 1))
    relay.reboot()
    relay.rounds(3, seconds=61)
    assert (relay.state, relay.reason) == ("degraded", code)
    assert relay.map == "localhost user:password-1\n"
    assert relay.postfix.is_open
    path.write_text(working)
    relay.rounds(1, seconds=10)
    assert relay.state == "ready"


def test_a_fresh_machine_whose_settings_cannot_be_applied_stays_closed(relay: Relay) -> None:
    write_json(relay.places.boot_json, {"schema": 1, "networks": ["192.0.2.0/24"]})
    relay.postfix.nft.path.write_text("#!/bin/sh\nexit 1\n")
    relay.rounds(3, seconds=61)
    assert relay.reason == "firewall"
    assert not relay.postfix.is_open


def test_a_firewall_that_fails_for_ever_does_not_reload_postfix_for_ever(relay: Relay) -> None:
    relay.rounds()
    relay.postfix.nft.path.write_text("#!/bin/sh\nexit 1\n")
    write_json(relay.places.boot_json, {"schema": 1, "networks": ["192.0.2.0/24"]})
    reloads = relay.postfix.reloads
    relay.rounds(10, seconds=10)
    assert relay.reason == "firewall"
    # One for the networks, one for the map, which the new settings' first proof refreshes.
    assert relay.postfix.reloads == reloads + 2


# -- what is said


def test_no_password_is_in_any_output(relay: Relay, capfd: pytest.CaptureFixture[str]) -> None:
    relay.answers["password-1"] = Trouble("auth-refused", "refused password-1", lasting=True)
    relay.rounds(2, seconds=61)
    del relay.answers["password-1"]
    relay.rounds(2, seconds=61)
    out, err = capfd.readouterr()
    shown = relay.log.getvalue() + relay.places.status_json.read_text() + out + err
    assert "refused [hidden]" in shown
    assert "password-1" not in shown


def test_the_password_in_a_map_of_an_agent_before_is_hidden_too(relay: Relay) -> None:
    relay.rounds()
    logs._secrets.clear()
    relay.restart()
    relay.fetch_trouble = Trouble("endpoint-error", "it repeats password-1")
    relay.rounds(2, seconds=61)
    assert "password-1" not in relay.places.status_json.read_text()
    assert "it repeats [hidden]" in relay.places.status_json.read_text()


def test_the_log_is_json_lines_and_says_each_change_once(relay: Relay) -> None:
    relay.fetch_trouble = MISSING
    relay.rounds(4, seconds=61)
    relay.fetch_trouble = None
    relay.rounds(4, seconds=61)
    lines = [json.loads(line) for line in relay.log.getvalue().splitlines()]
    events = [line["event"] for line in lines]
    assert events.count("credential") == 1
    assert events.count("credential in use") == 1
    states = [line["state"] for line in lines if line["event"] == "state"]
    assert states == ["starting", "ready"]


def test_systemd_is_told_ready_once_and_only_when_it_is(
    relay: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: Callable[[], list[str]]
) -> None:
    relay.fetch_trouble = MISSING
    relay.rounds()
    assert not any("READY=1" in text for text in messages())
    relay.fetch_trouble = None
    relay.rounds(3, seconds=61)
    told = messages()
    assert sum("READY=1" in text for text in told) == 1
    assert any(text == "STATUS=ready" for text in told)
    assert any(text == "WATCHDOG=1" for text in told)


@pytest.fixture
def messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import socket

    path = tmp_path / "notify"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(path))
    server.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))

    def read() -> list[str]:
        found = []
        while True:
            try:
                found.append(server.recv(4096).decode())
            except BlockingIOError:
                return found

    yield read
    server.close()

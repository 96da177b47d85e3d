"""Tests of the loop around a DKIM signer: port 25 opens when mail is signed, and closes when it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from relay_agent.places import Places
from relay_agent.secret import CURRENT, SecretVersion

from tests.agent.relay_world import FakePostfix, agent_json, write_json
from tests.agent.scripted_milter import KEYS, PLAN, Milter, rsa_key
from tests.agent.scripted_relay import REFUSED, Relay
from tests.fakes import FakeTools


@pytest.fixture(scope="module")
def pem() -> str:
    return rsa_key(2048)


class SigningRelay(Relay):
    """The loop around a signer."""

    def __init__(self, places: Places, postfix: FakePostfix, fake_tool: FakeTools, pem: str) -> None:
        self.pem, self.silences = pem, list[float]()
        for folder in ("keys", "milter"):
            (places.root / "run/relay-dkim" / folder).mkdir(parents=True)
        self.systemctl = fake_tool("systemctl")
        self.milter = Milter(places.root / "run/relay-dkim/milter/socket", {"example.com": "s1"})
        super().__init__(places, postfix)
        write_json(places.agent_json, agent_json(dkim={**PLAN, "keys": KEYS[:1]}))

    def _fetch(self, upstream: Any, stage: str = CURRENT) -> SecretVersion:
        # What the watchdog would see: every wait for an answer begins with a sign of life.
        self.silences.append(self.board.seconds_since_beat())
        self.board._beat -= 1000
        if upstream.secret == "relay/dkim":
            return SecretVersion(json.dumps({"private_key": self.pem}), "k1", 1.0)
        return super()._fetch(upstream, stage)


@pytest.fixture
def relay(
    places: Places,
    postfix_programs: FakePostfix,
    fake_tool: FakeTools,
    pem: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[SigningRelay]:
    monkeypatch.setattr("relay_agent.dkim.shutil.chown", lambda *_: None)
    relay = SigningRelay(places, postfix_programs, fake_tool, pem)
    yield relay
    relay.milter.stop()


def test_a_fresh_relay_opens_when_the_credential_and_the_signature_are_proved(relay: SigningRelay) -> None:
    relay.rounds(3, seconds=3)
    assert relay.probes
    assert not relay.postfix.has_listener
    assert (relay.state, relay.reason) == ("starting", "dkim-down")
    relay.milter.start()
    relay.rounds(1, seconds=3)
    assert relay.postfix.is_open
    assert relay.state == "ready"
    assert relay.status["dkim"]["signing"] is True


def test_a_signature_alone_does_not_open_it(relay: SigningRelay) -> None:
    relay.milter.start()
    relay.answers["password-1"] = REFUSED
    relay.rounds(3, seconds=3)
    assert not relay.postfix.has_listener
    assert relay.state == "starting"


def test_after_a_reboot_it_waits_for_the_signer_too(relay: SigningRelay) -> None:
    relay.milter.start()
    relay.rounds()
    relay.milter.stop()
    relay.reboot()
    relay.rounds(1, seconds=3)
    assert not relay.postfix.has_listener
    relay.milter.start()
    relay.rounds(1, seconds=3)
    assert relay.postfix.is_open


def test_a_signer_that_stays_down_closes_the_port_until_it_is_back(relay: SigningRelay) -> None:
    relay.milter.start()
    relay.rounds()
    relay.milter.stop()
    relay.rounds(1, seconds=16)
    assert (relay.state, relay.reason) == ("degraded", "dkim-down")
    assert relay.postfix.is_open
    relay.rounds(3, seconds=6)
    assert not relay.postfix.is_open
    assert (relay.state, relay.reason) == ("failed", "dkim-down")
    relay.milter.start()
    relay.rounds(1, seconds=6)
    assert relay.postfix.is_open
    assert relay.state == "ready"


def test_who_prefers_unsigned_mail_has_an_open_port(relay: SigningRelay) -> None:
    write_json(relay.places.agent_json, agent_json(dkim={**PLAN, "must_sign": False, "keys": KEYS[:1]}))
    relay.rounds(1, seconds=3)
    assert relay.postfix.is_open
    assert (relay.state, relay.reason) == ("degraded", "dkim-down")


def test_many_keys_and_a_slow_provider_do_not_make_the_agent_look_dead(relay: SigningRelay) -> None:
    many = [{**KEYS[0], "domain": f"d{number}.example"} for number in range(40)]
    write_json(relay.places.agent_json, agent_json(dkim={**PLAN, "keys": many}))
    at_probe = []
    prove = relay._prove

    def slow(upstream: Any, credential: Any) -> None:
        at_probe.append(relay.board.seconds_since_beat())
        prove(upstream, credential)

    relay._prove = slow  # type: ignore[method-assign]
    relay.restart()
    relay.rounds(1)
    assert len(relay.silences) == 41
    assert max(*relay.silences, *at_probe) < 900

"""How behaviours are set on the provider stand-in: in general, for sessions, for messages, as JSON."""

from __future__ import annotations

import ssl

import pytest

from builder.errors import BuilderError
from builder.standin.behaviour import Behaviour, Certificate, Fault, behaviour_from_json
from builder.standin.provider import Provider
from tests.unit.standin_client import (
    connected,
    logged_in,
    send,
    trusting,
)


def test_the_next_messages_are_counted_by_their_mail_command(provider: Provider) -> None:
    provider.next_messages(2, Behaviour(Fault.NOT_VERIFIED))
    with logged_in(provider) as client:
        assert [send(client) for _ in range(3)] == [554, 554, 250]


def test_what_is_set_for_a_session_stays_with_it(provider: Provider) -> None:
    provider.next_sessions(1, Behaviour(Fault.THROTTLED))
    with logged_in(provider) as first, logged_in(provider) as second:
        assert [send(second), send(first), send(first)] == [250, 454, 454]


def test_the_next_session_may_show_another_certificate(provider: Provider) -> None:
    provider.next_sessions(1, Behaviour(Fault.CERTIFICATE, certificate=Certificate.EXPIRED))
    with connected(provider) as client, pytest.raises(ssl.SSLCertVerificationError):
        client.starttls(context=trusting(provider))
    with logged_in(provider) as client:
        assert send(client) == 250


def test_a_block_puts_back_what_was_set_before(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.THROTTLED))
    with logged_in(provider) as client:
        with provider.behaving(Behaviour(Fault.GMAIL_QUOTA)):
            assert send(client) == 550
        assert send(client) == 454
        provider.clear()
        assert send(client) == 250


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "needs a `fault`"),
        ({"fault": "nonsense"}, "`fault` of a behaviour is `nonsense`"),
        ({"fault": "slow", "second": 1}, "has no key `second`"),
        ({"fault": "slow"}, "needs `seconds`"),
        ({"fault": "slow", "seconds": "1"}, "a number is expected"),
        ({"fault": "reply", "reply": "250 x"}, "needs a `stage` and a `reply`"),
        ({"fault": "rate"}, "needs a `limit` above 0"),
        ({"fault": "certificate"}, "other than `good`"),
        ({"fault": "no_starttls", "stage": "mail"}, "acts only at `ehlo`"),
        ({"fault": "throttled", "stage": "body"}, "needs a reply of 421"),
        ({"fault": "throttled", "match": 1}, "a text is expected"),
    ],
)
def test_a_wrong_behaviour_is_refused_with_its_mistake(raw: dict[str, object], message: str) -> None:
    with pytest.raises(BuilderError, match=message):
        behaviour_from_json(raw)


def test_a_behaviour_survives_json() -> None:
    behaviour = Behaviour(Fault.CERTIFICATE, certificate=Certificate.EXPIRED)
    assert behaviour_from_json(behaviour.to_json()) == behaviour


def test_messages_cannot_be_given_what_acts_before_them(provider: Provider) -> None:
    with pytest.raises(BuilderError, match="acts at `greeting`"):
        provider.next_messages(1, Behaviour(Fault.GREETING_421))
    with pytest.raises(BuilderError, match="cannot be set for sessions"):
        provider.next_sessions(1, Behaviour(Fault.REFUSE))


def test_every_fault_is_in_the_table_of_the_module() -> None:
    from builder.standin import behaviour

    assert behaviour.__doc__ is not None
    named = [line.split()[0] for line in behaviour.__doc__.splitlines() if line.startswith("    ")]
    assert [fault for fault in Fault if fault not in named] == []

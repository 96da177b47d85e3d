"""Each behaviour of the provider stand-in as smtplib sees it."""

from __future__ import annotations

import smtplib
import time

import pytest

from builder.standin.behaviour import Behaviour, Fault, Stage
from builder.standin.provider import Provider
from tests.unit.standin_client import (
    CONTENT,
    PASSWORD,
    RECIPIENT,
    SENDER,
    TIMEOUT_SECONDS,
    USER,
    connected,
    encrypted,
    logged_in,
    send,
)

# -- replies


@pytest.mark.parametrize(
    ("behaviour", "code", "text"),
    [
        (Behaviour(Fault.SESSION_421), 421, b"4.4.2"),
        (Behaviour(Fault.SESSION_421, stage=Stage.RCPT), 421, b"4.4.2"),
        (Behaviour(Fault.SESSION_421, stage=Stage.DATA), 421, b"4.4.2"),
        (Behaviour(Fault.SESSION_421, stage=Stage.BODY), 421, b"4.4.2"),
        (Behaviour(Fault.SESSION_421, stage=Stage.END_OF_DATA), 421, b"4.4.2"),
        (Behaviour(Fault.THROTTLED), 454, b"Maximum sending rate exceeded"),
        (Behaviour(Fault.THROTTLED, stage=Stage.END_OF_DATA), 454, b"Maximum sending rate exceeded"),
        (Behaviour(Fault.DAILY_QUOTA), 454, b"Daily message quota exceeded"),
        (Behaviour(Fault.GMAIL_QUOTA), 550, b"5.4.5"),
        (Behaviour(Fault.GMAIL_QUOTA, stage=Stage.RCPT), 550, b"5.4.5"),
        (Behaviour(Fault.GMAIL_QUOTA, stage=Stage.END_OF_DATA), 550, b"5.4.5"),
        (Behaviour(Fault.AUTH_REQUIRED), 530, b"Authentication required"),
        (Behaviour(Fault.UNKNOWN_RECIPIENT), 550, b"5.1.1"),
        (Behaviour(Fault.NOT_VERIFIED), 554, b"not verified"),
        (Behaviour(Fault.TOO_BIG), 552, b"too long"),
        (Behaviour(Fault.REPLY, stage=Stage.RCPT, reply="553 5.1.8 no"), 553, b"5.1.8 no"),
        (Behaviour(Fault.THROTTLED, reply="432 4.3.2 slow down"), 432, b"slow down"),
    ],
    ids=lambda value: f"{value.fault}-{value.acts_at}" if isinstance(value, Behaviour) else "",
)
def test_a_message_is_refused_with_the_providers_words(
    provider: Provider, behaviour: Behaviour, code: int, text: bytes
) -> None:
    provider.behave(behaviour)
    with logged_in(provider) as client:
        refused_with, words = _send_until_refused(client)
    assert refused_with == code
    assert text in words

    assert provider.messages == ()
    (refusal,) = provider.refusals
    assert refusal.stage is behaviour.acts_at
    assert refusal.reply.startswith(str(code))


def _send_until_refused(client: smtplib.SMTP) -> tuple[int, bytes]:
    code, text = client.mail(SENDER)
    if code == 250:
        code, text = client.rcpt(RECIPIENT)
    if code == 250:
        try:
            code, text = client.data(CONTENT)
        except smtplib.SMTPDataError as error:
            code, text = error.smtp_code, str(error.smtp_error).encode()
    return code, text


def test_a_421_greeting_ends_the_connection(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.GREETING_421))
    with pytest.raises(smtplib.SMTPConnectError, match="421"):
        smtplib.SMTP("localhost", provider.port, timeout=TIMEOUT_SECONDS)

    assert provider.refusals[0].stage is Stage.GREETING
    assert provider.sessions[0].ended_by == "provider"


def test_a_burst_of_421_ends_by_itself(provider: Provider) -> None:
    provider.next_sessions(3, Behaviour(Fault.GREETING_421))
    for _ in range(3):
        with pytest.raises(smtplib.SMTPConnectError):
            smtplib.SMTP("localhost", provider.port, timeout=TIMEOUT_SECONDS)
    with logged_in(provider) as client:
        assert send(client) == 250


def test_only_so_many_sessions_are_taken_at_once(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.GREETING_421, limit=2))
    with connected(provider), connected(provider), pytest.raises(smtplib.SMTPConnectError):
        smtplib.SMTP("localhost", provider.port, timeout=TIMEOUT_SECONDS)
    provider.wait_for(lambda: provider.counts.open_sessions == 0, timeout_seconds=TIMEOUT_SECONDS)
    with connected(provider) as client:
        assert client.ehlo()[0] == 250


def test_a_session_is_cut_after_so_many_messages(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.SESSION_CUT, limit=2))
    with logged_in(provider) as client:
        assert [send(client) for _ in range(3)] == [250, 250, 421]
        with pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
            client.noop()
    with logged_in(provider) as client:
        assert send(client) == 250


def test_what_exceeds_the_rate_is_throttled_and_counted(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.RATE, limit=3, seconds=60))
    with logged_in(provider) as client:
        codes = [send(client) for _ in range(5)]

    assert codes == [250, 250, 250, 454, 454]
    assert (provider.counts.offered, provider.counts.throttled) == (5, 2)


def test_the_rate_is_per_time(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.RATE, limit=1, seconds=0.3))
    with logged_in(provider) as client:
        assert [send(client), send(client)] == [250, 454]
        time.sleep(0.35)
        assert send(client) == 250


def test_a_temporary_auth_failure_can_be_tried_again(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.AUTH_TEMPORARY))
    with encrypted(provider) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError, match=r"454.*4\.7\.0"):
            client.login(USER, PASSWORD)
        provider.clear()
        client.login(USER, PASSWORD)
        assert send(client) == 250

    assert provider.auths[0].password_is == "current"
    assert not provider.auths[0].accepted


def test_the_right_password_can_be_refused(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.AUTH_REFUSED, match=USER))
    with encrypted(provider) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
            client.login(USER, PASSWORD)
        assert client.mail(SENDER)[0] == 530


def test_greylisting_takes_the_second_try(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.GREYLISTED))
    with logged_in(provider) as client:
        assert [send(client), send(client)] == [451, 250]
        assert send(client, "other@example.net") == 451


def test_greylisting_can_want_a_pause(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.GREYLISTED, seconds=60))
    with logged_in(provider) as client:
        assert [send(client), send(client)] == [451, 451]


def test_recipients_over_the_limit_are_refused_one_by_one(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.TOO_MANY_RECIPIENTS, limit=2))
    with logged_in(provider) as client:
        client.mail(SENDER)
        codes = [client.rcpt(f"{name}@example.net")[0] for name in "abc"]
        assert client.data(CONTENT)[0] == 250

    assert codes == [250, 250, 452]
    assert provider.messages[0].recipients == ("a@example.net", "b@example.net")


def test_only_what_is_bigger_than_the_limit_is_too_big(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.TOO_BIG, limit=len(CONTENT)))
    with logged_in(provider) as client:
        assert [send(client), send(client, content=CONTENT + b"more\r\n")] == [250, 552]

    assert len(provider.refused_messages) == 1


def test_a_pattern_limits_a_behaviour_to_some(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.UNKNOWN_RECIPIENT, match="*@GONE.example"))
    with logged_in(provider) as client:
        assert send(client, "a@gone.example") == 550
        assert send(client, "a@here.example") == 250


# -- time and broken connections


@pytest.mark.parametrize("stage", [Stage.GREETING, Stage.EHLO, Stage.AUTH, Stage.MAIL, Stage.END_OF_DATA])
def test_a_slow_provider_gives_the_right_answer_late(provider: Provider, stage: Stage) -> None:
    provider.behave(Behaviour(Fault.SLOW, stage=stage, seconds=0.4))
    began = time.monotonic()
    with logged_in(provider) as client:
        assert send(client) == 250

    assert time.monotonic() - began >= 0.4


def test_delays_add_up(provider: Provider) -> None:
    provider.behave(
        Behaviour(Fault.SLOW, stage=Stage.MAIL, seconds=0.2),
        Behaviour(Fault.SLOW, stage=Stage.MAIL, seconds=0.2),
        Behaviour(Fault.THROTTLED),
    )
    with logged_in(provider) as client:
        began = time.monotonic()
        assert client.mail(SENDER)[0] == 454

    assert time.monotonic() - began >= 0.4


def test_a_stall_in_data_keeps_the_client_waiting(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.STALL))
    with logged_in(provider) as client:
        client.mail(SENDER)
        client.rcpt(RECIPIENT)
        assert client.docmd("DATA")[0] == 354
        client.send(CONTENT + b".\r\n")
        assert client.sock is not None
        client.sock.settimeout(0.3)
        with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
            client.getreply()

    assert provider.messages == ()


@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY, Stage.END_OF_DATA])
def test_a_dropped_connection_has_no_answer(provider: Provider, stage: Stage) -> None:
    provider.behave(Behaviour(Fault.DROP, stage=stage))
    with logged_in(provider) as client, pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
        send(client)

    assert provider.messages == ()
    assert [(refusal.stage, refusal.reply) for refusal in provider.refusals] == [(stage, "")]


@pytest.mark.parametrize("stage", [Stage.GREETING, Stage.EHLO, Stage.STARTTLS, Stage.AUTH])
def test_a_connection_can_be_dropped_before_any_mail(provider: Provider, stage: Stage) -> None:
    provider.behave(Behaviour(Fault.DROP, stage=stage))
    with pytest.raises((smtplib.SMTPServerDisconnected, OSError)), logged_in(provider):
        pass

    assert provider.refusals[0].stage is stage


def test_a_lost_reply_leaves_an_accepted_message(provider: Provider) -> None:
    provider.next_messages(1, Behaviour(Fault.LOST_REPLY))
    with logged_in(provider) as client, pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
        send(client)

    (message,) = provider.messages
    assert (message.accepted, message.reply) == (True, "")


def test_a_refused_connection_and_then_the_same_port_again(provider: Provider) -> None:
    port = provider.port
    with logged_in(provider) as client, provider.behaving(Behaviour(Fault.REFUSE)):
        with pytest.raises(ConnectionRefusedError):
            smtplib.SMTP("localhost", provider.port, timeout=TIMEOUT_SECONDS)
        with pytest.raises(ConnectionRefusedError):
            smtplib.SMTP("localhost", provider.tls_port, timeout=TIMEOUT_SECONDS)
        assert send(client) == 250
    with logged_in(provider) as client:
        assert send(client) == 250
    assert provider.port == port


def test_dropping_sessions_breaks_those_that_are_open(provider: Provider) -> None:
    with logged_in(provider) as client:
        assert provider.drop_sessions() == 1
        with pytest.raises((smtplib.SMTPServerDisconnected, OSError)):
            send(client)

    assert provider.counts.open_sessions == 0

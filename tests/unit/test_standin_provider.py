"""The provider stand-in when it behaves: TLS, AUTH, what it records, and that it takes many at once."""

from __future__ import annotations

import base64
import contextlib
import smtplib
import socket
import ssl
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest

from builder.errors import BuilderError
from builder.standin.behaviour import Behaviour, Certificate, Fault
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
    new_provider,
    send,
    trusting,
)


def test_a_message_over_starttls_is_recorded_as_the_client_meant_it(provider: Provider) -> None:
    with logged_in(provider) as client:
        assert send(client) == 250
        client.quit()

    (message,) = provider.messages
    assert (message.sender, message.recipients) == (SENDER, (RECIPIENT,))
    assert message.content == CONTENT
    assert message.size == len(CONTENT)
    assert message.body == b"body\r\n.dot\r\n"
    assert message.message_id == "<1@example.com>"
    assert ("Subject", "hello") in message.headers
    assert message.user == USER
    assert message.tls_version.startswith("TLSv1.")
    assert message.reply.startswith("250 Ok")
    assert abs(message.time - time.time()) < 60


def test_the_session_is_recorded_command_by_command(provider: Provider) -> None:
    with logged_in(provider) as client:
        send(client)
        client.quit()
    provider.wait_for(lambda: provider.sessions[0].closed, timeout_seconds=TIMEOUT_SECONDS)

    (session,) = provider.sessions
    commands = [command.split()[0] for command, _ in session.exchange if command]
    assert commands == ["EHLO", "STARTTLS", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "DATA", "QUIT"]
    assert session.peer[0] == "127.0.0.1"
    assert session.certificate is Certificate.GOOD
    assert session.ended_by == "client"
    assert (session.mails, session.messages) == (1, 1)


def test_implicit_tls_needs_no_starttls(provider: Provider) -> None:
    with smtplib.SMTP_SSL("localhost", provider.tls_port, context=trusting(provider)) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        client.login(USER, PASSWORD)
        assert send(client) == 250

    assert provider.sessions[0].implicit_tls
    assert provider.messages[0].user == USER


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_each_mechanism_takes_the_right_password(provider: Provider, mechanism: str) -> None:
    with encrypted(provider) as client:
        client.user, client.password = USER, PASSWORD
        method = {"PLAIN": client.auth_plain, "LOGIN": client.auth_login}[mechanism]
        assert client.auth(mechanism, method)[0] == 235

    (attempt,) = provider.auths
    assert (attempt.mechanism, attempt.user, attempt.accepted) == (mechanism, USER, True)
    assert attempt.password_is == "current"


@pytest.mark.parametrize("initial", [True, False])
def test_xoauth2_takes_the_right_token_and_challenges_a_wrong_one(initial: bool) -> None:
    with new_provider(mechanisms=("XOAUTH2",)) as provider, encrypted(provider) as client:
        wrong = _xoauth2("expired")
        code, challenge = client.docmd("AUTH", f"XOAUTH2 {wrong}" if initial else "XOAUTH2")
        if not initial:
            code, challenge = client.docmd(wrong)
        assert code == 334
        assert b'"status": "401"' in base64.b64decode(challenge)
        assert client.docmd("")[0] == 535
        assert client.docmd("AUTH", f"XOAUTH2 {_xoauth2(PASSWORD)}")[0] == 235
        assert [attempt.accepted for attempt in provider.auths] == [False, True]
        assert client.docmd("AUTH", "PLAIN AAAA")[0] == 503


def _xoauth2(token: str) -> str:
    return base64.b64encode(f"user={USER}\x01auth=Bearer {token}\x01\x01".encode()).decode()


def test_a_long_token_is_taken() -> None:
    token = "t" * 4000
    provider = new_provider(users={USER: token}, mechanisms=("XOAUTH2",))
    with provider, encrypted(provider) as client:
        assert client.docmd("AUTH", f"XOAUTH2 {_xoauth2(token)}")[0] == 235


def test_a_wrong_password_gets_535_and_may_try_again(provider: Provider) -> None:
    with encrypted(provider) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
            client.login(USER, "wrong")
        client.login(USER, PASSWORD)

    assert [attempt.password_is for attempt in provider.auths][-1] == "current"
    assert provider.auths[0].password_is == "neither"
    assert provider.auths[0].password_digest == sha256(b"wrong").hexdigest()
    assert provider.counts.auths_refused >= 1


def test_no_record_holds_a_password(provider: Provider) -> None:
    secret = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
    with logged_in(provider) as client:
        send(client)

    written = repr((provider.sessions, provider.auths, provider.messages, provider.refusals))
    assert PASSWORD not in written
    assert secret not in written


def test_a_rotated_password_is_told_from_the_old_one(provider: Provider) -> None:
    provider.set_password(USER, "new", keep_old=True)
    with encrypted(provider) as client:
        client.login(USER, PASSWORD)
    provider.forget_old_passwords(USER)
    with encrypted(provider) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login(USER, PASSWORD)
        client.login(USER, "new")

    kinds = [(attempt.password_is, attempt.accepted) for attempt in provider.auths]
    assert kinds[0] == ("old", True)
    assert ("old", False) in kinds
    assert kinds[-1] == ("current", True)


def test_a_removed_user_can_no_longer_log_in(provider: Provider) -> None:
    provider.remove_user(USER)
    provider.set_password("another", "x")
    with encrypted(provider) as client, pytest.raises(smtplib.SMTPAuthenticationError):
        client.login(USER, PASSWORD)


def test_mail_without_auth_gets_530(provider: Provider) -> None:
    with encrypted(provider) as client:
        assert client.mail(SENDER)[0] == 530

    assert provider.refusals[0].reply == "530 Authentication required"


def test_mail_and_auth_without_tls_get_530_and_the_attempt_is_a_leak(provider: Provider) -> None:
    with connected(provider) as client:
        client.ehlo()
        assert not client.has_extn("auth")
        assert client.mail(SENDER)[0] == 530
        assert client.docmd("AUTH", "PLAIN AAAA")[0] == 530

    (leak,) = provider.leaks
    assert not leak.encrypted


def test_auth_before_ehlo_is_recorded_too(provider: Provider) -> None:
    with connected(provider) as client:
        client.docmd("auth", "plain AHUAcA==")

    assert provider.auths[0].mechanism == "PLAIN"
    assert len(provider.leaks) == 1


def test_a_provider_without_users_takes_mail_without_auth() -> None:
    with new_provider(users={}) as provider, encrypted(provider) as client:
        assert not client.has_extn("auth")
        assert send(client) == 250


def test_a_provider_can_take_auth_in_the_clear() -> None:
    with new_provider(requires_tls=False) as provider, connected(provider) as client:
        client.login(USER, PASSWORD)
        assert send(client) == 250
        assert len(provider.leaks) == 1


def test_a_null_sender_is_recorded_as_empty(provider: Provider) -> None:
    with logged_in(provider) as client:
        client.mail("<>")
        client.rcpt(RECIPIENT)
        assert client.data(CONTENT)[0] == 250

    assert provider.messages[0].sender == ""


def test_a_bare_newline_stays_what_it_is(provider: Provider) -> None:
    smuggled = b"Subject: x\r\n\r\nbefore\n.\nMAIL FROM:<evil@example.org>\r\nafter\r\n"
    with logged_in(provider) as client:
        client.mail(SENDER)
        client.rcpt(RECIPIENT)
        client.docmd("DATA")
        client.send(smuggled + b".\r\n")
        assert client.getreply()[0] == 250

    assert [message.content for message in provider.messages] == [smuggled]


def test_a_message_over_the_size_limit_is_refused_at_mail() -> None:
    with new_provider(size_limit=1000) as provider, logged_in(provider) as client:
        assert client.esmtp_features["size"] == "1000"
        assert client.mail(SENDER, ["SIZE=1001"])[0] == 552


def test_smtputf8_is_offered_when_asked_for() -> None:
    with new_provider(smtputf8=True) as provider, logged_in(provider) as client:
        assert client.has_extn("smtputf8")
        assert client.mail("jürgen@example.com", ["SMTPUTF8"])[0] == 250


def test_pipelined_commands_are_answered_one_by_one() -> None:
    with new_provider(pipelining=True) as provider, logged_in(provider) as client:
        assert client.has_extn("pipelining")
        provider.next_messages(1, Behaviour(Fault.THROTTLED))
        client.send(f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n")
        assert [client.getreply()[0] for _ in range(3)] == [454, 503, 503]
        client.send(f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n")
        assert [client.getreply()[0] for _ in range(3)] == [250, 250, 354]


def test_an_idle_session_is_closed() -> None:
    with new_provider(idle_seconds=0.2) as provider, connected(provider) as client:
        client.ehlo()
        assert client.getreply() == (451, b"4.4.2 Timeout waiting for data from client.")
        assert provider.sessions[0].ended_by == "idle"


def test_waiting_in_vain_says_what_was_seen(provider: Provider) -> None:
    with connected(provider):
        provider.wait_for(lambda: provider.counts.sessions, timeout_seconds=TIMEOUT_SECONDS)
        with pytest.raises(BuilderError, match=r"within 0 s; it saw sessions 1, .*messages 0"):
            provider.wait_for(lambda: provider.messages, timeout_seconds=0.05)


def test_forgetting_keeps_open_sessions_known(provider: Provider) -> None:
    with logged_in(provider) as client:
        send(client)
        provider.forget()
        assert provider.messages == ()
        assert provider.counts.open_sessions == 1
        assert send(client) == 250

    assert len(provider.messages) == 1


def test_hundreds_of_connections_at_once_are_served(provider: Provider) -> None:
    clients = [socket.create_connection(("127.0.0.1", provider.port)) for _ in range(300)]
    try:
        assert all(client.recv(3) == b"220" for client in clients)
        assert provider.counts.peak_sessions == 300
    finally:
        for client in clients:
            client.close()
    provider.wait_for(lambda: not provider.counts.open_sessions, timeout_seconds=TIMEOUT_SECONDS)


def test_parallel_senders_lose_nothing(provider: Provider) -> None:
    def work(number: int) -> None:
        with logged_in(provider) as client:
            for position in range(5):
                send(client, f"{number}-{position}@example.net")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert len({message.recipients for message in provider.messages}) == 50
    assert [message.number for message in provider.messages] == list(range(1, 51))


def test_an_authority_that_is_kept_serves_the_same_clients_again(tmp_path: Path) -> None:
    with new_provider(ca_folder=tmp_path / "ca") as first:
        pem = first.ca_pem
    with new_provider(ca_folder=tmp_path / "ca") as second:
        assert second.ca_pem == pem
        with encrypted(second):
            pass
    assert (tmp_path / "ca" / "ca.key").stat().st_mode & 0o077 == 0


def test_several_providers_can_share_a_port(tmp_path: Path) -> None:
    first = new_provider(reuse_port=True, ca_folder=tmp_path)
    with first, new_provider(reuse_port=True, ca_folder=tmp_path, port=first.port) as second:
        for _ in range(20):
            with encrypted(first):
                pass
        assert first.counts.sessions + second.counts.sessions == 20


def test_a_taken_port_is_a_clear_error(provider: Provider) -> None:
    with pytest.raises(BuilderError, match=r"cannot listen on 127\.0\.0\.1"):
        new_provider(port=provider.port).start()


def test_a_taken_second_port_leaves_the_first_one_free(provider: Provider) -> None:
    half = new_provider(tls_port=provider.tls_port)
    with pytest.raises(BuilderError, match="cannot listen"):
        half.start()
    with pytest.raises(BuilderError, match="is not running"):
        _ = half.port


def test_a_provider_that_does_not_run_says_so() -> None:
    with pytest.raises(BuilderError, match="is not running"):
        _ = new_provider().port


def test_what_was_seen_can_be_read_after_the_end() -> None:
    with new_provider() as provider, logged_in(provider) as client:
        send(client)

    assert len(provider.messages) == 1
    assert provider.counts.open_sessions == 0


def test_it_ends_while_clients_are_connected() -> None:
    with new_provider() as provider:
        client = socket.create_connection(("127.0.0.1", provider.port), TIMEOUT_SECONDS)
        assert client.recv(1000).startswith(b"220")
    with client, contextlib.suppress(ConnectionResetError):
        assert client.recv(1000) == b""
    assert provider.counts.open_sessions == 0
    assert provider.sessions[0].ended_by == "provider"


def test_a_client_without_trust_in_the_authority_sends_nothing(provider: Provider) -> None:
    with connected(provider) as client, pytest.raises(ssl.SSLCertVerificationError):
        client.starttls(context=ssl.create_default_context())
    provider.wait_for(lambda: provider.sessions[0].tls_error, timeout_seconds=TIMEOUT_SECONDS)

    assert "UNKNOWN_CA" in provider.sessions[0].tls_error
    assert provider.auths == ()

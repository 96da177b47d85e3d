"""The main thing that tests ask of the provider stand-in: did an impostor get a credential?"""

from __future__ import annotations

import smtplib
import ssl

import pytest

from builder.standin.behaviour import Behaviour, Certificate, Fault
from builder.standin.provider import Provider
from tests.unit.standin_client import (
    PASSWORD,
    TIMEOUT_SECONDS,
    USER,
    connected,
    encrypted,
    send,
    trusting,
)

IMPOSTORS = [kind for kind in Certificate if kind is not Certificate.GOOD]


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_an_impostor_on_starttls_gets_no_auth(provider: Provider, kind: Certificate) -> None:
    provider.behave(Behaviour(Fault.CERTIFICATE, certificate=kind))
    with connected(provider) as client, pytest.raises(ssl.SSLCertVerificationError):
        client.starttls(context=trusting(provider))
    provider.wait_for(lambda: provider.sessions[0].closed, timeout_seconds=TIMEOUT_SECONDS)

    (session,) = provider.sessions
    assert session.certificate is kind
    assert session.tls_error
    assert provider.auths == ()


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_an_impostor_on_implicit_tls_gets_no_auth(provider: Provider, kind: Certificate) -> None:
    provider.behave(Behaviour(Fault.CERTIFICATE, certificate=kind))
    with pytest.raises(ssl.SSLCertVerificationError):
        smtplib.SMTP_SSL("localhost", provider.tls_port, context=trusting(provider))
    provider.wait_for(lambda: provider.sessions[0].closed, timeout_seconds=TIMEOUT_SECONDS)

    assert provider.sessions[0].certificate is kind
    assert provider.sessions[0].tls_error
    assert provider.auths == ()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Certificate.WRONG_NAME, "Hostname mismatch"),
        (Certificate.EXPIRED, "certificate has expired"),
        (Certificate.UNKNOWN_CA, "unable to get local issuer certificate"),
        (Certificate.SELF_SIGNED, "self-signed certificate"),
    ],
)
def test_each_certificate_is_wrong_in_one_way(provider: Provider, kind: Certificate, reason: str) -> None:
    provider.behave(Behaviour(Fault.CERTIFICATE, certificate=kind))
    with connected(provider) as client, pytest.raises(ssl.SSLError, match=reason):
        client.starttls(context=trusting(provider))


def test_a_careless_client_that_logs_in_to_an_impostor_is_a_leak(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.CERTIFICATE, certificate=Certificate.WRONG_NAME))
    careless = ssl.create_default_context()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
    with connected(provider) as client:
        client.starttls(context=careless)
        client.login(USER, PASSWORD)

    (leak,) = provider.leaks
    assert (leak.user, leak.password_is, leak.encrypted) == (USER, "current", True)
    assert leak.certificate is Certificate.WRONG_NAME


def test_a_client_that_insists_on_tls_sends_no_auth_when_starttls_is_stripped(
    provider: Provider,
) -> None:
    provider.behave(Behaviour(Fault.NO_STARTTLS))
    with connected(provider) as client, pytest.raises(smtplib.SMTPNotSupportedError):
        client.starttls(context=trusting(provider))

    assert provider.sessions[0].helo
    assert provider.auths == ()


def test_a_careless_client_logs_in_in_the_clear_when_starttls_is_stripped(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.NO_STARTTLS))
    with connected(provider) as client:
        client.login(USER, PASSWORD)
        assert client.docmd("STARTTLS")[0] == 502
        assert send(client) == 250

    (leak,) = provider.leaks
    assert (leak.user, leak.encrypted, leak.certificate) == (USER, False, None)


def test_auth_missing_from_ehlo_is_still_recorded_when_tried(provider: Provider) -> None:
    provider.behave(Behaviour(Fault.NO_AUTH))
    with encrypted(provider) as client:
        assert not client.has_extn("auth")
        client.docmd("AUTH", "PLAIN AAAA")

    assert len(provider.auths) == 1

"""Tests of relay_agent.probe against the provider stand-in: right, wrong, not now, and not who it says."""

from __future__ import annotations

import smtplib
import socket
import threading
import time
from pathlib import Path

import pytest
from relay_agent.credential import Credential
from relay_agent.probe import Prover
from relay_agent.settings import Upstream
from relay_agent.trouble import Trouble

from builder.standin.behaviour import Behaviour, Certificate, Fault, Stage
from builder.standin.provider import Provider
from tests.agent.relay_world import PASSWORD, USER

RIGHT = Credential(USER, PASSWORD)
WRONG = Credential(USER, "Wrong-" + PASSWORD)


def upstream(
    port: int, *, tls: str = "starttls", mechanisms: tuple[str, ...] = ("plain", "login")
) -> Upstream:
    return Upstream("primary", "localhost", port, tls, (), mechanisms, "relay/ses", "us-east-1")


def trouble_of(prover: Prover, target: Upstream, credential: Credential = RIGHT) -> Trouble:
    with pytest.raises(Trouble) as caught:
        prover.prove(target, credential)
    for text in (caught.value.message, str(caught.value.hint), repr(caught.value)):
        assert credential.password not in text
    return caught.value


@pytest.fixture
def prover(ca_file: Path) -> Prover:
    return Prover(ca_file=ca_file, hello="relay.example.com", timeout_seconds=2, deadline_seconds=2)


@pytest.mark.parametrize("mechanism", ["plain", "login"])
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_the_right_credential_is_proven(provider: Provider, prover: Prover, tls: str, mechanism: str) -> None:
    port = provider.port if tls == "starttls" else provider.tls_port
    prover.prove(upstream(port, tls=tls, mechanisms=(mechanism,)), RIGHT)
    assert [attempt.accepted for attempt in provider.auths] == [True]
    assert provider.auths[0].mechanism == mechanism.upper()
    assert provider.leaks == ()


@pytest.mark.parametrize("mechanism", ["plain", "login"])
def test_a_wrong_credential_is_told_from_trouble(provider: Provider, prover: Prover, mechanism: str) -> None:
    trouble = trouble_of(prover, upstream(provider.port, mechanisms=(mechanism,)), WRONG)
    assert (trouble.code, trouble.lasting) == ("auth-refused", True)
    assert "535" in trouble.message


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (Behaviour(Fault.AUTH_TEMPORARY), "auth-temporary"),
        (Behaviour(Fault.GREETING_421), "upstream-temporary"),
        (Behaviour(Fault.REPLY, stage=Stage.EHLO, reply="421 4.3.0 later"), "upstream-temporary"),
        (Behaviour(Fault.DROP), "upstream-unreachable"),
        (Behaviour(Fault.REFUSE), "upstream-unreachable"),
        (Behaviour(Fault.SLOW, stage=Stage.GREETING, seconds=5), "upstream-unreachable"),
        (Behaviour(Fault.NO_STARTTLS), "upstream-no-starttls"),
        (Behaviour(Fault.NO_AUTH), "upstream-no-auth"),
        (Behaviour(Fault.CERTIFICATE, certificate=Certificate.WRONG_NAME), "upstream-untrusted"),
        (Behaviour(Fault.CERTIFICATE, certificate=Certificate.EXPIRED), "upstream-untrusted"),
        (Behaviour(Fault.CERTIFICATE, certificate=Certificate.UNKNOWN_CA), "upstream-untrusted"),
        (Behaviour(Fault.CERTIFICATE, certificate=Certificate.SELF_SIGNED), "upstream-untrusted"),
    ],
)
def test_a_fault_has_its_own_name_and_gets_no_password(
    provider: Provider, prover: Prover, behaviour: Behaviour, code: str
) -> None:
    with provider.behaving(behaviour):
        trouble = trouble_of(prover, upstream(provider.port))
    assert (trouble.code, trouble.lasting) == (code, False)
    assert provider.leaks == ()
    if not code.startswith("auth-"):
        assert provider.auths == ()


@pytest.mark.parametrize("kind", [Certificate.WRONG_NAME, Certificate.UNKNOWN_CA])
def test_an_impostor_with_implicit_tls_gets_nothing(
    provider: Provider, prover: Prover, kind: Certificate
) -> None:
    with provider.behaving(Behaviour(Fault.CERTIFICATE, certificate=kind)):
        trouble = trouble_of(prover, upstream(provider.tls_port, tls="implicit"))
    assert trouble.code == "upstream-untrusted"
    assert provider.auths == ()


def test_a_name_that_is_nowhere_is_a_matter_of_dns(prover: Prover) -> None:
    nowhere = Upstream("primary", "relay.invalid", 587, "starttls", (), ("plain",), "s", None)
    assert trouble_of(prover, nowhere).code == "upstream-dns"


def test_without_certificate_authorities_nothing_is_sent(provider: Provider, tmp_path: Path) -> None:
    prover = Prover(ca_file=tmp_path / "missing.pem", hello="relay.example.com", timeout_seconds=2)
    assert trouble_of(prover, upstream(provider.port)).code == "upstream-untrusted"
    assert provider.auths == ()


def test_a_server_that_drips_is_given_up_at_the_deadline(ca_file: Path) -> None:
    prover = Prover(ca_file=ca_file, hello="relay.example.com", timeout_seconds=5, deadline_seconds=0.5)
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            client, _ = server.accept()
            with client:
                while not stopping.wait(0.1):
                    try:
                        client.sendall(b"2")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        trouble = trouble_of(prover, upstream(server.getsockname()[1]))
        stopping.set()
        thread.join()
    assert trouble.code == "upstream-temporary"


def test_the_deadline_holds_also_when_it_passes_before_there_is_a_connection(
    ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight addresses that do not answer take two minutes, and the ninth may drip."""
    stopping = threading.Event()

    def drip(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            while not stopping.wait(0.1):
                try:
                    client.sendall(b"2")
                except OSError:
                    return

    def connect_late(self: smtplib.SMTP, host: str, port: int, timeout: float) -> socket.socket:
        time.sleep(0.6)
        return socket.create_connection((host, port), timeout)

    monkeypatch.setattr(smtplib.SMTP, "_get_socket", connect_late)
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        prover = Prover(ca_file=ca_file, hello="relay.example.com", timeout_seconds=2, deadline_seconds=0.3)
        started = time.monotonic()
        trouble_of(prover, upstream(server.getsockname()[1]))
        stopping.set()
        thread.join()
    assert time.monotonic() - started < 3


def test_a_password_that_is_not_ascii_is_sent_as_utf8(provider: Provider, prover: Prover) -> None:
    provider.set_password(USER, "pässword-ü")
    prover.prove(upstream(provider.port), Credential(USER, "pässword-ü"))
    assert provider.auths[0].accepted

"""Tests of relayctl doctor and send-test: each fault by its name, each message to its last reply."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from relay_agent.credential import Credential
from relay_agent.ctl.findings import MENDS
from relay_agent.maillog import _REASONS
from relay_agent.maps import write_sasl
from relay_agent.places import Places

from builder.standin.behaviour import Behaviour, Certificate, Fault
from builder.standin.provider import Provider
from tests.agent.relay_world import PASSWORD, USER, FakePostfix, make_places, write_json
from tests.agent.relayctl_world import Ctl, entry, steps
from tests.fakes import FakeTools

# -- doctor


@pytest.fixture
def healthy(ctl: Ctl, provider: Provider) -> Ctl:
    """A relay without any fault, with the provider stand-in."""
    ctl.postfix._table.write_text((ctl.postfix.folder / "open").read_text())
    write_sasl(ctl.places.sasl_map, {"localhost": Credential(USER, PASSWORD)})
    upstream = {"port": provider.port, "ca_pem": provider.ca_pem}
    write_json(ctl.places.boot_json, {"schema": 1, "upstream": upstream})
    ctl.places.private_ca.write_text(provider.ca_pem)
    return ctl


def test_doctor_finds_nothing_wrong_where_nothing_is(healthy: Ctl, provider: Provider) -> None:
    code, text = healthy("doctor", "--json")
    found = steps(text)
    assert code == 0
    assert found["login primary"] == [f"ok: localhost:{provider.port}: certificate trusted, login accepted"]
    assert found["Postfix"] == ["ok: it runs (postfix@-.service)"]
    assert found["firewall"] == ["ok: lets 10.0.0.0/8 to port 25"]
    assert "WRONG" not in healthy("doctor")[1]


Change = Callable[[Ctl, Provider], None]
BOUNCE = (
    "4bXyZ1A: to=<a@example.org>, relay=h[192.0.2.1]:587, delay=1, delays=0/0/0/1, dsn=5.0.0, status=bounced "
    "(host h[192.0.2.1] said: 554 Message rejected: Email address is not verified. (in reply to end of DATA))"
)


@pytest.mark.parametrize(
    ("change", "step", "evidence"),
    [
        (lambda ctl, _: ctl.postfix.stop(), "Postfix", "wrong: it does not run"),
        (lambda ctl, _: ctl.postfix.stop(), "port", "is closed"),
        (lambda ctl, _: ctl.places.draining.touch(), "port", "closed for draining"),
        (lambda ctl, _: ctl.places.sasl_map.unlink(), "credential", "is missing: mail waits"),
        (lambda ctl, _: ctl.places.sasl_map.unlink(), "login primary", "warning: not tried"),
        (lambda ctl, _: ctl.places.sasl_map.chmod(0o644), "credential", "has mode 0644"),
        (
            lambda ctl, _: write_sasl(ctl.places.sasl_map, {"other.example": Credential("u", "p1234")}),
            "credential",
            "no entry for localhost; the map has other.example",
        ),
        (
            lambda _, provider: provider.set_password(USER, "another"),
            "login primary",
            "refused the credential",
        ),
        (lambda _, provider: provider.behave(Behaviour(Fault.AUTH_TEMPORARY)), "login primary", "warning: "),
        (
            lambda _, provider: provider.behave(
                Behaviour(Fault.CERTIFICATE, certificate=Certificate.WRONG_NAME)
            ),
            "connection primary",
            "cannot be trusted",
        ),
        (
            lambda _, provider: provider.behave(Behaviour(Fault.REFUSE)),
            "connection primary",
            "cannot be reached",
        ),
        (lambda ctl, _: ctl.fake_tool("nft", "exit 1"), "firewall", "there is no table"),
        (lambda ctl, _: ctl.fake_tool("timedatectl", "echo no"), "clock", "not synchronized"),
        (lambda ctl, _: ctl.set_log(("postfix/smtp", BOUNCE)), "log", "wrong: 1 bounced (sender)"),
        (
            lambda ctl, _: ctl.postfix.set_queue(entry(30) + "\n"),
            "queue",
            "warning: 1 recipients wait: throttled",
        ),
        (lambda ctl, _: ctl.places.status_json.unlink(), "agent", "agent-silent"),
        (
            lambda ctl, _: ctl.fake_tool("postfix", "[ $1 = status ] || { echo 'bad: x' >&2; exit 1; }"),
            "configuration",
            "wrong: bad: x",
        ),
        (
            lambda ctl, _: ctl.set_log(
                ("postfix/smtpd", "NOQUEUE: reject: RCPT from x[203.0.113.9]: 554 5.7.1 <a>: Access denied")
            ),
            "clients",
            "1 with 554",
        ),
    ],
)
def test_doctor_names_each_fault(
    healthy: Ctl, provider: Provider, change: Change, step: str, evidence: str
) -> None:
    change(healthy, provider)
    code, text = healthy("doctor", "--json")
    found = steps(text)
    assert any(evidence in line for line in found[step]), found
    is_wrong = any(line.startswith("wrong") for lines in found.values() for line in lines)
    assert code == int(is_wrong)
    for item in json.loads(text)["steps"]:
        if item["state"] == "wrong":
            assert item["mend"] or item["step"] == "disk"
    assert PASSWORD not in text


def test_an_empty_queue_with_bounces_in_the_log_is_not_success(healthy: Ctl) -> None:
    healthy.set_log(("postfix/smtp", BOUNCE))
    code, text = healthy("doctor", "--offline")
    assert code == 1
    assert "that alone does not say that mail arrived" in text
    assert "mend: Verify the sender's address or domain at the provider" in text


def test_a_step_that_breaks_is_a_finding_and_the_next_ones_follow(healthy: Ctl) -> None:
    healthy.places.sasl_map.write_bytes(b"localhost user:\xff\n")
    code, text = healthy("doctor", "--offline", "--json")
    found = steps(text)
    assert code == 1
    assert "`credential map` failed: UnicodeDecodeError" in found["credential map"][0]
    assert "queue" in found


def test_every_reason_has_something_that_mends_it() -> None:
    assert {name for name, _ in _REASONS} == set(MENDS)


# -- send-test


@pytest.fixture
def relay_port(tmp_path: Path, fake_tool: FakeTools) -> Iterator[Places]:
    """A port 25 that takes one message as 4bXyZ1A."""
    replies = [b"250 relay\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n"]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client, client.makefile("rb") as lines:
                client.sendall(b"220 relay\r\n")
                for reply in replies:
                    lines.readline()
                    client.sendall(reply)
                while lines.readline() != b".\r\n":
                    pass
                client.sendall(b"250 2.0.0 Ok: queued as 4bXyZ1A\r\n")
                lines.readline()
                client.sendall(b"221 bye\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield make_places(tmp_path / "other", server.getsockname()[1])
        thread.join(5)


def say(status: str, text: str) -> tuple[str, str]:
    return "postfix/smtp", (
        f"4bXyZ1A: to=<a@example.org>, relay=h[192.0.2.1]:587, delay=1, delays=0/0/0/1, dsn=2.0.0, "
        f"status={status} ({text})"
    )


@pytest.mark.parametrize(
    ("lines", "code", "last"),
    [
        ([say("deferred", "host h said: 454 later"), say("sent", "250 Ok")], 0, "The provider has taken it"),
        ([say("bounced", "host h said: 554 no")], 1, "It was not delivered"),
        ([("postfix/discard", say("sent", "by rule")[1])], 1, "An access rule of relay.yaml discards"),
        ([say("deferred", "host h said: 454 later")], 1, "It stays in the queue"),
    ],
)
def test_send_test_follows_the_message_to_its_last_reply(
    relay_port: Places, fake_tool: FakeTools, lines: list[tuple[str, str]], code: int, last: str
) -> None:
    places = relay_port
    postfix = FakePostfix(places.root / "postfix", places, fake_tool)
    ctl = Ctl(places, postfix, fake_tool)
    other = ("postfix/smtp", lines[0][1].replace("4bXyZ1A", "4bXyZ1B").replace("454", "999"))
    ctl.set_log(other, *lines)
    found, text = ctl("send-test", "a@example.org")
    assert found == code
    assert "accepted from relay-test@example.com as 4bXyZ1A" in text
    assert last in text.splitlines()[-1]
    assert "999" not in text


def test_send_test_at_a_closed_port_says_where_to_look(
    tmp_path: Path, fake_tool: FakeTools, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    places = make_places(tmp_path / "other", port)
    ctl = Ctl(places, FakePostfix(places.root / "postfix", places, fake_tool), fake_tool)
    assert ctl("send-test", "a@example.org")[0] == 1
    assert "relayctl status" in capsys.readouterr().err

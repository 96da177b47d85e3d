"""Tests of relayctl: what it prints, what it runs, and what it never does without being asked twice."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_agent.board import Board
from relay_agent.credential import Credential
from relay_agent.ctl.__main__ import build_parser, main
from relay_agent.ctl.context import Context, Out, span
from relay_agent.ctl.findings import MENDS
from relay_agent.maillog import _REASONS
from relay_agent.mailqueue import parse, summarize
from relay_agent.maps import write_sasl
from relay_agent.places import Places
from relay_agent.traffic import Traffic

from builder.standin.behaviour import Behaviour, Certificate, Fault
from builder.standin.provider import Provider
from tests.agent.relay_world import PASSWORD, USER, FakePostfix, agent_json, make_places, write_json
from tests.agent.test_agent_health import UPSTREAM, fill
from tests.fakes import FakeTool, FakeTools

NFT = json.dumps(
    {
        "nftables": [
            {"metainfo": {}},
            {"set": {"name": "networks4", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}},
            {"set": {"name": "management4", "elem": ["192.0.2.1"]}},
        ]
    }
)
PARAMETERS = """\
for name; do :; done
case "$1$2" in
-MX*) rm -f {state}/listener ;;
-M*) [ -e {state}/listener ] && echo 'smtp inet n - n - - smtpd' ;;
-xhmynetworks) echo '127.0.0.0/8 [::1]/128 10.0.0.0/8' ;;
-xhmessage_size_limit) echo 1000 ;;
-xhrelayhost) echo '[localhost]:587' ;;
-xhmyorigin) echo example.com ;;
*) echo "$name" ;;
esac
"""


def entry(
    number: int, reason: str = "host h[1] said: 454 Throttling failure", queue: str = "deferred"
) -> str:
    return json.dumps(
        {
            "queue_name": queue,
            "queue_id": f"4bXyZ1{number}",
            "arrival_time": int(time.time()) - 60 * number,
            "message_size": 1000,
            "sender": "app@example.com",
            "recipients": [{"address": "a@example.org", "delay_reason": reason}],
        }
    )


class Ctl:
    """relayctl with its relay around it."""

    def __init__(self, places: Places, postfix: FakePostfix, fake_tool: FakeTools) -> None:
        self.places, self.postfix, self.fake_tool = places, postfix, fake_tool
        self.answers: list[str] = []
        self.questions: list[str] = []
        fake_tool("postconf", PARAMETERS.format(state=postfix.folder))
        self.nft = fake_tool("nft", f"echo '{NFT}'")
        self.postcat = fake_tool("postcat", "echo 'Subject: hello'")
        self.postsuper = fake_tool("postsuper", "echo 'postsuper: Deleted: 1 message' >&2")
        fake_tool("timedatectl", "echo yes")
        self.set_log()
        places.spool.mkdir(parents=True)
        write_json(places.agent_json, agent_json())
        board = Board(places, Traffic(), version="0.1.0")
        fill(board)
        board.set(upstreams=[{**UPSTREAM, "port": 587, "secret": "relay/ses", "proven_at": 1000.0}])
        self.board = board
        board.write()

    def set_log(self, *lines: tuple[str, str]) -> FakeTool:
        """What the journal holds."""
        entries = [
            json.dumps({"SYSLOG_IDENTIFIER": program, "MESSAGE": message, "__CURSOR": "x"})
            for program, message in lines
        ]
        path = self.places.root / "journal"
        path.write_text("".join(line + "\n" for line in entries))
        return self.fake_tool("journalctl", f"cat {path}")

    def __call__(self, *arguments: str) -> tuple[int, str]:
        out = io.StringIO()

        def ask(question: str) -> str:
            self.questions.append(question)
            return self.answers.pop(0)

        context = Context(self.places, Out(out), ask=ask, sleep=lambda _seconds: None)
        return main(arguments, context), out.getvalue()


@pytest.fixture
def ctl(places: Places, postfix_programs: FakePostfix, fake_tool: FakeTools) -> Ctl:
    return Ctl(places, postfix_programs, fake_tool)


def steps(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for step in json.loads(text)["steps"]:
        found.setdefault(step["step"], []).append(f"{step['state']}: {step['evidence']}")
    return found


# -- status


def test_status_shows_each_thing_an_operator_asks_for(ctl: Ctl) -> None:
    code, text = ctl("status")
    assert code == 0
    for part in (
        "relay",
        "ready",
        "ses: localhost:587 (primary)",
        "proven, version v1",
        "1 deferred (oldest",
        "waits for: throttled 1",
        "in 0.0/s, out 0.0/s",
        "1 delivered",
        "ago through h: 250 Ok",
        "throttled: deferred",
        "454 Throttling failure",
        "10.0.0.0/8",
        "networks4: 10.0.0.0/8",
        "management4: 192.0.2.1",
    ):
        assert part in text
    assert "example.org" not in text


def test_status_shows_rate_and_submission_where_there_are_any(ctl: Ctl) -> None:
    rate = {"own_per_second": 6.5, "account_per_second": 14.0, "relays": 2, "share": "fleet", "reason": None}
    trouble = {"code": "secret-missing", "message": "There is no secret `relay/users`", "hint": None}
    port = {"port": 587, "open": False, "users": 0, "secret": "relay/users", "reason": trouble}
    ctl.board.set(rate=rate, submission=port)
    ctl.board.write()
    text = ctl("status")[1]
    assert "6.5/s of the account's 14/s, 2 relays (fleet)" in text
    assert "port 587 closed, 0 users from `relay/users`" in text
    assert "There is no secret `relay/users`" in text
    ctl.board.set(rate={**rate, "own_per_second": None})
    ctl.board.write()
    assert "not known: nothing is slowed" in ctl("status")[1]


def test_status_as_json_has_policy_and_firewall(ctl: Ctl) -> None:
    code, text = ctl("status", "--json")
    value = json.loads(text)
    assert code == 0
    assert value["state"] == "ready"
    assert value["firewall"]["networks4"] == ["10.0.0.0/8"]
    assert value["policy"]["mynetworks"].endswith("10.0.0.0/8")


def test_status_of_a_silent_agent_says_where_to_look(ctl: Ctl, capsys: pytest.CaptureFixture[str]) -> None:
    value = json.loads(ctl.places.status_json.read_text())
    write_json(ctl.places.status_json, {**value, "updated_at": time.time() - 600})
    assert ctl("status")[0] == 1
    ctl.places.status_json.unlink()
    assert ctl("status")[0] == 1
    err = capsys.readouterr().err
    assert "600 s ago" in err
    assert "systemctl status relay-agent" in err


def test_a_refused_version_is_shown(ctl: Ctl) -> None:
    reason = {"code": "auth-refused", "message": "localhost:587 refused the credential", "hint": None}
    changed = {
        "port": 587,
        "secret": "relay/ses",
        "proven_at": 1000.0,
        "refused_version": "v2",
        "reason": reason,
    }
    ctl.board.set(upstreams=[{**UPSTREAM, **changed}])
    ctl.board.write()
    text = ctl("status")[1]
    assert "version v2 is refused" in text
    assert "refused the credential" in text


# -- queue


def test_queue_lists_the_oldest_first_with_its_reason(ctl: Ctl) -> None:
    ctl.postfix.set_queue(f"{entry(1)}\n{entry(5, 'Server certificate not verified')}\n")
    code, text = ctl("queue")
    assert code == 0
    first, second = text.splitlines()
    assert first.startswith("4bXyZ15")
    assert "tls: Server certificate not verified" in first
    assert "throttled" in second
    assert ctl("queue", "list", "--reason", "tls")[1].splitlines() == [first]
    assert len(json.loads(ctl("queue", "list", "--json")[1])) == 2


def test_an_empty_queue_is_not_called_delivered(ctl: Ctl) -> None:
    assert "bounced messages leave it too" in ctl("queue")[1]


def test_show_gives_headers_and_the_body_only_when_asked(ctl: Ctl) -> None:
    assert "Subject: hello" in ctl("queue", "show", "4bXyZ11")[1]
    ctl("queue", "show", "--body", "4bXyZ11")
    assert ctl.postcat.calls == [["-eh", "-q", "4bXyZ11"], ["-ehb", "-q", "4bXyZ11"]]


def test_retry_is_one_flush_or_one_message(ctl: Ctl) -> None:
    ctl("queue", "retry")
    ctl("queue", "retry", "4bXyZ11")
    assert ctl.postfix.postqueue.calls == [["-f"], ["-i", "4bXyZ11"]]


def test_hold_and_release_of_one_message_are_not_asked_about(ctl: Ctl) -> None:
    assert ctl("queue", "hold", "4bXyZ11")[0] == 0
    assert ctl("queue", "release", "4bXyZ11")[0] == 0
    assert ctl.postsuper.calls == [["-h", "4bXyZ11"], ["-H", "4bXyZ11"]]


@pytest.mark.parametrize(("answer", "deleted"), [("y", True), ("", False), ("n", False), ("no", False)])
def test_deleting_one_message_names_it_and_asks(ctl: Ctl, answer: str, deleted: bool) -> None:
    ctl.postfix.set_queue(entry(1) + "\n")
    ctl.answers = [answer]
    code, _ = ctl("queue", "delete", "4bXyZ11")
    assert (code == 0) is deleted
    assert ctl.postsuper.calls == ([["-d", "4bXyZ11"]] if deleted else [])
    assert "app@example.com to a@example.org" in ctl.questions[0]


@pytest.mark.parametrize("extra", [[], ["--yes"]])
@pytest.mark.parametrize(
    ("answer", "deleted"), [("y", False), ("yes", False), ("delete 2 messages", True), ("ALL", False)]
)
def test_deleting_everything_wants_the_number_typed_whatever_is_given(
    ctl: Ctl, answer: str, deleted: bool, extra: list[str]
) -> None:
    ctl.postfix.set_queue(f"{entry(1)}\n{entry(2)}\n")
    ctl.answers = [answer]
    ctl("queue", "delete", "ALL", *extra)
    assert ctl.postsuper.calls == ([["-d", "ALL"]] if deleted else [])


def test_a_message_that_is_gone_is_said(ctl: Ctl, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl("queue", "delete", "4bXyZ19")[0] == 1
    assert "`4bXyZ19` is not in the queue" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["-x", "../../etc", "a b", ";reboot"])
def test_only_a_queue_id_is_a_queue_id(ctl: Ctl, wrong: str) -> None:
    with pytest.raises(SystemExit) as caught:
        ctl("queue", "delete", "--", wrong)
    assert caught.value.code == 2
    assert ctl.postsuper.calls == []


# -- drain


def test_drain_closes_flushes_and_waits_until_it_is_empty(ctl: Ctl) -> None:
    (ctl.postfix.folder / "listener").touch()
    ctl.postfix.start()
    ctl.postfix.set_queue(entry(1) + "\n")
    ctl.fake_tool(
        "postqueue", f"case $1 in -j) cat {ctl.postfix.folder}/queue; : >{ctl.postfix.folder}/queue ;; esac"
    )
    code, text = ctl("drain")
    assert (code, text.splitlines()[-1]) == (0, "The queue is empty")
    assert not ctl.postfix.has_listener
    assert not ctl.postfix.is_open
    assert ctl.places.draining.exists()


def test_drain_gives_up_in_time_and_says_what_is_left(ctl: Ctl) -> None:
    ctl.postfix.set_queue(entry(3) + "\n")
    code, text = ctl("drain", "--timeout", "0")
    assert code == 1
    assert "1 deferred, oldest 3 min" in text
    assert "1 recipients wait: throttled" in text
    assert ctl.postfix.flushes == 1


def test_drain_can_be_taken_back(ctl: Ctl) -> None:
    ctl.places.draining.touch()
    assert ctl("drain", "--cancel")[0] == 0
    assert not ctl.places.draining.exists()


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


# -- the command line


def test_every_command_has_an_example_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser()
    for command in ("status", "doctor", "send-test", "queue", "drain"):
        with pytest.raises(SystemExit):
            parser.parse_args([command, "--help"])
        assert "example" in capsys.readouterr().out


def test_wrong_usage_is_exit_code_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["nonsense"])
    assert caught.value.code == 2


def test_a_password_in_use_never_shows(ctl: Ctl) -> None:
    write_sasl(ctl.places.sasl_map, {"localhost": Credential(USER, PASSWORD)})
    ctl.postfix.set_queue(entry(1, f"host h said: 451 echo {PASSWORD}") + "\n")
    assert PASSWORD not in ctl("queue")[1]


def test_a_user_without_rights_is_told_to_use_sudo(
    places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    class Forbidden(Context):
        def status(self) -> dict[str, Any]:
            raise PermissionError(13, "Permission denied", str(self.places.status_json))

    assert main(["status"], Forbidden(places, Out(io.StringIO()))) == 1
    assert "sudo relayctl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (7300, "2 h"), (200000, "2 d"), (-5, "0 s")],
)
def test_durations_are_as_people_say_them(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_queue_entry_of_an_unknown_queue_is_counted() -> None:
    summary: Any = summarize(parse([json.dumps({"queue_id": "4bXyZ1", "queue_name": "maildrop"})]))
    assert summary.total == 1

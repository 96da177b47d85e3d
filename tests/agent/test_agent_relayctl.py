"""Tests of relayctl: what it prints, what it runs, and what it never does without being asked twice."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import pytest
from relay_agent import loops
from relay_agent.credential import Credential
from relay_agent.ctl.__main__ import build_parser, main
from relay_agent.ctl.context import Context, Out, span
from relay_agent.mailqueue import parse, summarize
from relay_agent.maps import write_sasl
from relay_agent.places import Places

from tests.agent.relay_world import PASSWORD, USER, write_json
from tests.agent.relayctl_world import Ctl, entry, steps
from tests.agent.test_agent_health import UPSTREAM

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
    trouble = {"code": "secret-missing", "message": "There is no secret `relay/users`", "hint": None}
    rate = {"own_per_second": 6.5, "account_per_second": 14.0, "relays": 2, "share": "fleet"}
    rate |= {"paced": True, "reason": None, "gate_reason": trouble}
    port = {"port": 587, "open": False, "users": 0, "secret": "relay/users", "reason": trouble}
    ctl.board.set(rate=rate, submission=port)
    ctl.board.write()
    text = ctl("status")[1]
    assert "6.5/s of the account's 14/s, 2 relays (fleet)" in text
    assert "port 587 closed, 0 users from `relay/users`" in text
    assert text.count("There is no secret `relay/users`") == 2
    for key, said in (("own_per_second", "not known"), ("paced", "NOT kept")):
        ctl.board.set(rate={**rate, key: None})
        ctl.board.write()
        assert f"{said}: nothing is slowed" in ctl("status")[1]


SIGNER = {
    "signing": True,
    "must_sign": True,
    "keys": [
        {"domain": "example.com", "name": "s1._domainkey.example.com", "record": "v=DKIM1; k=rsa; p=AB"}
    ],
    "reason": None,
}
DOWN = {"code": "dkim-down", "message": "The DKIM signer does not answer", "hint": "look at it"}


def test_status_says_whether_mail_is_signed(ctl: Ctl) -> None:
    assert "DKIM" not in ctl("status")[1]
    ctl.board.set(dkim=SIGNER)
    ctl.board.write()
    assert "mail of example.com is signed" in ctl("status")[1]
    ctl.board.set(dkim={**SIGNER, "signing": False, "reason": DOWN})
    ctl.board.write()
    text = ctl("status")[1]
    assert "mail of example.com is NOT signed" in text
    assert "does not answer" in text


def test_doctor_says_what_must_stand_in_dns(ctl: Ctl) -> None:
    ctl.board.set(dkim=SIGNER)
    ctl.board.write()
    found = steps(ctl("doctor", "--offline", "--json")[1])
    record = "the TXT record s1._domainkey.example.com must be v=DKIM1; k=rsa; p=AB"
    assert found["DKIM"] == [f"ok: mail of example.com is signed; {record}"]
    ctl.board.set(dkim={**SIGNER, "signing": False, "reason": DOWN})
    ctl.board.write()
    found = steps(ctl("doctor", "--offline", "--json")[1])
    assert found["DKIM"] == ["wrong: The DKIM signer does not answer"]


def test_a_loop_of_the_agent_that_fails_is_shown(ctl: Ctl) -> None:
    loops.failed("rate", OSError(28, "No space left on device"))
    ctl.board.write()
    assert "loop rate failed 1 times" in ctl("status")[1]
    assert "OSError (No space left on device)" in ctl("doctor", "--offline")[1]


def test_status_as_json_has_policy_and_firewall(ctl: Ctl) -> None:
    code, text = ctl("status", "--json")
    value = json.loads(text)
    assert code == 0
    assert value["state"] == "ready"
    assert value["firewall"]["networks4"] == ["10.0.0.0/8"]
    assert value["policy"]["mynetworks"].endswith("10.0.0.0/8")


RULES = """\
for name; do :; done
case "$2$name" in
-xhmynetworks|-xhmessage_size_limit) echo 10.0.0.0/8 ;;
*smtpd_recipient_restrictions)
    echo 'check_client_access cidr:/etc/postfix/n.cidr, check_sender_access regexp:/etc/postfix/s.regexp' ;;
*smtpd_restriction_classes) echo senders_of_network_1 ;;
*senders_of_network_1) echo 'check_sender_access regexp:/etc/postfix/senders_of_network_1.regexp' ;;
*smtpd_client_message_rate_limit) echo 100 ;;
*smtpd_client_*_limit) echo 0 ;;
*smtpd_client_event_limit_exceptions) echo 10.9.0.1 ;;
*) echo ;;
esac
"""


def test_status_shows_who_may_send_what(ctl: Ctl) -> None:
    ctl.fake_tool("postconf", RULES)
    folder = ctl.places.root / "etc/postfix"
    folder.mkdir()
    (folder / "n.cidr").write_text("# networks\n10.1.0.0/16  senders_of_network_1\n")
    (folder / "s.regexp").write_text("".join(f"/^a{number}@/  REJECT no\n" for number in range(12)))
    (folder / "senders_of_network_1.regexp").write_text("/@example[.]com$/  DUNNO\n/^/  REJECT 5.7.1 no\n")
    text = ctl("status")[1]
    for part in (
        "/etc/postfix/n.cidr, 1 rules",
        "10.1.0.0/16  senders_of_network_1",
        "/etc/postfix/s.regexp, 12 rules",
        "… and 4 more",
        "/@example[.]com$/  DUNNO",
        "100 messages a minute; not for 10.9.0.1",
    ):
        assert part in text
    rules = json.loads(ctl("status", "--json")[1])["policy"]["rules"]
    assert len(rules["/etc/postfix/s.regexp"]) == 12
    (folder / "s.regexp").unlink()
    assert "cannot be read: No such file" in ctl("status")[1]


def test_status_says_that_there_are_no_rules_and_no_limits(ctl: Ctl) -> None:
    ctl.fake_tool("postconf", "for name; do :; done; case $name in *_limit) echo 0;; esac")
    text = ctl("status")[1]
    assert "none: every sender and recipient" in text
    assert "client limits" in text


def test_status_while_the_provider_does_not_answer_is_shown_with_its_age(ctl: Ctl) -> None:
    value = json.loads(ctl.places.status_json.read_text())
    write_json(ctl.places.status_json, {**value, "updated_at": time.time() - 90})
    code, text = ctl("status")
    assert code == 0
    assert "as of 2 min ago" in text


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

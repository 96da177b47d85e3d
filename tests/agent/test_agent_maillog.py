"""Tests of relay_agent.maillog, traffic and follow on log lines: data/*.log with what is read in data/*.json.

postfix-3.7.log came from a real Postfix against the provider stand-in; other-releases.log has the forms of
Postfix 3.4 to 3.10 that differ, after its source (smtp_proto.c, qmgr_active.c) and reports of users.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from relay_agent import maillog
from relay_agent.follow import Follower, read_entry
from relay_agent.logs import Log
from relay_agent.maillog import (
    Arrived,
    Delivery,
    Event,
    Queued,
    Rejected,
    parse,
    reason_of,
    without_addresses,
)
from relay_agent.places import Places
from relay_agent.traffic import Traffic

from tests.fakes import FakeTools

DATA = Path(__file__).parent / "data"
_LINE = re.compile(r"\w{3} +\d+ [\d:]+ \S+ ([\w/-]+)\[\d+\]: (.*)")


def read_all(path: Path) -> list[dict[str, Any]]:
    """Read every line of a log as the follower would; a line that is about nothing gives `null`."""
    found = []
    for line in path.read_text().splitlines():
        match = _LINE.fullmatch(line)
        assert match, line
        event = parse(match.group(1), match.group(2))
        found.append({} if event is None else {"event": type(event).__name__, **asdict(event)})
    return found


@pytest.mark.parametrize("path", sorted(DATA.glob("*.log")), ids=lambda path: path.stem)
def test_each_line_is_read_as_expected(path: Path) -> None:
    expected = [json.loads(line) for line in path.with_suffix(".json").read_text().splitlines()]
    assert read_all(path) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("local data error while talking to email-smtp.us-east-1.amazonaws.com[192.0.2.1]", "credential"),
        ("SASL authentication failed; server h[1] said: 535 Authentication Credentials Invalid", "auth"),
        ("SASL authentication failed; server h[1] said: 454 4.7.0 Temporary", "auth-temporary"),
        ("host h[1] said: 430 Authentication required (in reply to MAIL FROM command)", "auth"),
        ("host h[1] said: 454 Throttling failure: Maximum sending rate exceeded.", "throttled"),
        ("host h[1] said: 454 Throttling failure: Daily message quota exceeded.", "quota"),
        ("host h[1] said: 450 4.4.5 Daily user sending limit exceeded.", "quota"),
        ("host h[1] refused to talk to me: 421 Too many concurrent SMTP connections", "throttled"),
        ("Server certificate not verified", "tls"),
        ("TLS is required, but our TLS engine is unavailable", "tls"),
        ("host h[1] said: 554 Message rejected: Email address is not verified.", "sender"),
        ("host h[1] said: 552 Message is too long.", "size"),
        ("host h[1] said: 550 5.1.1 The email account does not exist", "recipient"),
        ("host h[1] said: 451 4.7.1 Greylisted, try again later", "throttled"),
        ("lost connection with h[1] while sending end of data", "connect"),
        ("host h[1] said: 451 hm", "temporary"),
        ("host h[1] said: 599 hm", "rejected"),
        ("something new", "other"),
        # The recipient's mailbox, not the account's quota.
        ("host h[1] said: 552 5.2.2 Mailbox quota exceeded (in reply to RCPT TO)", "recipient"),
        (
            "host h[1] said: 452 4.2.2 The email account is over quota (in reply to RCPT TO command)",
            "recipient",
        ),
        ("host h[1] said: 552 Mailbox quota exceeded (in reply to RCPT TO)", "recipient"),
        ("host h[1] said: 452 Mailbox full (in reply to end of DATA command)", "recipient"),
        ("host h[1] said: 552 5.2.2 <a@b> Quota exceeded (mailbox for user is full)", "recipient"),
        (
            "host h[1] said: 550 5.4.5 Daily user sending quota exceeded. (in reply to RCPT TO command)",
            "quota",
        ),
        (
            "host h[1] said: 451 Authentication failed: Maximum credits exceeded (in reply to DATA)",
            "quota",
        ),
        # The login of this relay, or the authenticity of the message.
        (
            "host h[1] said: 550 5.7.1 Authentication failed (DMARC) (in reply to end of DATA command)",
            "policy",
        ),
        (
            "host h[1] said: 550 5.7.26 authentication failed: SPF, DKIM (in reply to end of DATA)",
            "policy",
        ),
        ("host h[1] said: 550 5.7.1 SPF authentication failed (in reply to MAIL FROM command)", "policy"),
        ("host h[1] said: 550 5.7.515 required authentication level (in reply to end of DATA)", "policy"),
        ("host h[1] said: 554 5.7.1 authentication failed (in reply to end of DATA)", "policy"),
        ("host h[1] said: 535 5.7.1 authentication failed (in reply to end of DATA)", "policy"),
        ("host h[1] said: 530 5.7.0 Authentication Required. (in reply to MAIL FROM command)", "auth"),
        ("host h[1] said: 550 5.7.1 Authentication required (in reply to RCPT TO command)", "auth"),
        ("host h[1] said: 530 5.7.57 Client not authenticated to send mail (in reply to MAIL FROM)", "auth"),
        ("host h[1] said: 535 5.7.8 bad credentials (in reply to MAIL FROM command)", "auth"),
        ("host h[1] said: 530 Authentication required (in reply to end of DATA command)", "auth"),
        ("SASL authentication failed; server h[1] said: 535 5.7.20 no (SPF quota)", "auth"),
        ("delivery temporarily suspended: SASL authentication failed; server h[1] said: 535 no", "auth"),
    ],
)
def test_a_reason_has_one_word(text: str, reason: str) -> None:
    assert reason_of(text) == reason


def test_addresses_are_taken_out_of_what_is_shown() -> None:
    text = "host h said: 550 <john.doe+x@example.org>: unknown; from=<a@b.example>"
    assert without_addresses(text) == "host h said: 550 <…@example.org>: unknown; from=<…@b.example>"


def test_a_long_line_is_read_in_no_time() -> None:
    started = time.monotonic()
    for line in ("A" * 100_000, "4bXyZ1ABC: to=<" + "a, relay=" * 20_000, "4bXyZ1ABC: from=<" + "<" * 50_000):
        maillog.parse("postfix/smtp", line)
        maillog.parse("postfix/qmgr", line)
        without_addresses(line)
    assert time.monotonic() - started < 2


# -- counting


def delivery(status: str = "sent", text: str = "250 Ok", queue_id: str = "4bXyZ1A") -> Delivery:
    line = (
        f"{queue_id}: to=<a@example.org>, relay=h[192.0.2.1]:587, delay=0.2, delays=0/0/0/0.2, dsn=2.0.0, "
        f"status={status} ({text})"
    )
    event = parse("postfix/smtp", line)
    assert isinstance(event, Delivery)
    return event


def come_in(traffic: Traffic, queue_id: str) -> None:
    arrived = parse("postfix/cleanup", f"{queue_id}: message-id=<x@example.com>")
    assert arrived == Arrived(queue_id)
    traffic.add(arrived, 100.0)


def test_a_message_is_accepted_once_however_often_it_is_tried() -> None:
    traffic = Traffic(clock=lambda: 100.0)
    come_in(traffic, "4bXyZ1A")
    for _ in range(3):
        traffic.add(Queued("4bXyZ1A", "s@example.com", 10, 1), 100.0)
    come_in(traffic, "4bXyZ1B")
    traffic.add(Queued("4bXyZ1B", "s@example.com", 10, 1), 100.0)
    assert traffic.summary()["accepted"] == 2


def test_a_long_queue_that_is_tried_again_is_not_accepted_again() -> None:
    traffic = Traffic(clock=lambda: 100.0)
    waiting = [f"4bXy{number:06d}" for number in range(150_000)]
    for queue_id in waiting:
        traffic.add(Arrived(queue_id))
        traffic.add(Queued(queue_id, "s@example.com", 10, 1))
    for queue_id in waiting:
        traffic.add(Queued(queue_id, "s@example.com", 10, 1))
    assert traffic.summary()["accepted"] == 150_000


def test_messages_that_waited_at_the_start_are_not_new() -> None:
    traffic = Traffic()
    traffic.add(Queued("4bXyZ1A", "s@example.com", 10, 1))
    assert traffic.summary()["accepted"] == 0


def test_what_is_refused_after_its_header_is_not_accepted() -> None:
    traffic = Traffic()
    come_in(traffic, "4bXyZ1A")
    assert traffic.summary()["accepted"] == 0


def test_a_queue_id_that_is_used_again_counts_again() -> None:
    traffic = Traffic()
    for _ in range(2):
        come_in(traffic, "4bXyZ1A")
        traffic.add(Queued("4bXyZ1A", "s@example.com", 10, 1))
    assert traffic.summary()["accepted"] == 2


@pytest.mark.parametrize(
    ("program", "line", "result"),
    [
        (
            "postfix/discard",
            "4bXyZ1A: to=<a@drop.example>, relay=none, delay=0.1, delays=0.1/0/0/0, dsn=2.0.0, status=sent "
            "(discarded by an access rule)",
            "discarded",
        ),
        (
            "postfix/pipe",
            "4bXyZ1A: to=<a@example.org>, relay=dsn-spool, delay=0.02, delays=0.01/0/0/0, dsn=2.0.0, "
            "status=sent (delivered via dsn-spool service)",
            "kept",
        ),
        (
            "postfix/smtpd",
            "NOQUEUE: discard: RCPT from app[10.0.0.1]: <s@example.com>: Sender address triggers DISCARD "
            "discarded by an access rule; from=<s@example.com> to=<a@example.org> proto=ESMTP helo=<app>",
            "discarded",
        ),
    ],
)
def test_what_the_provider_never_gets_is_not_delivered(program: str, line: str, result: str) -> None:
    traffic = Traffic()
    event = parse(program, line)
    assert event is not None
    traffic.add(event)
    assert traffic.frozen()["deliveries"] == {(result, "none", result): 1}
    assert traffic.summary()["last_delivered"] is None
    assert traffic.summary()["last_errors"] == {}


def test_a_report_that_cannot_be_kept_is_an_error() -> None:
    line = (
        "4bXyZ1A: to=<a@example.org>, relay=dsn-spool, delay=1, delays=1/0/0/0, dsn=4.3.0, status=deferred "
        "(temporary failure)"
    )
    event = parse("postfix/pipe", line)
    assert isinstance(event, Delivery)
    assert event.status == "deferred"


def test_rates_are_over_a_minute_and_five() -> None:
    now = [1000.0]
    traffic = Traffic(clock=lambda: now[0])
    for second in range(120):
        traffic.add(delivery(), 1000.0 + second)
    now[0] = 1119.5
    rates = traffic.summary()["rate_out"]
    assert rates["60"] == pytest.approx(1.0, abs=0.05)
    assert rates["300"] == pytest.approx(0.4, abs=0.01)


def test_only_a_refused_login_is_a_hint_to_look_for_a_new_credential() -> None:
    traffic = Traffic()
    refused = "SASL authentication failed; server h[1] said: 535 no"
    assert traffic.add(delivery("deferred", refused))
    assert not traffic.add(delivery("deferred", refused.replace("535", "454")))
    assert not traffic.add(delivery("deferred", "delivery temporarily suspended: " + refused))
    assert not traffic.add(delivery())
    assert traffic.frozen()["auth_failures"] == 1


def test_rejected_clients_are_counted_by_code() -> None:
    traffic = Traffic()
    traffic.add(Rejected("RCPT", 554, "x"))
    assert traffic.frozen()["rejected"] == {"554": 1}


# -- following


def entry(number: int, message: Any, program: str = "postfix/qmgr") -> str:
    return json.dumps(
        {
            "__CURSOR": f"s=a;i={number}",
            "__REALTIME_TIMESTAMP": str(1795370871000000 + number),
            "SYSLOG_IDENTIFIER": program,
            "MESSAGE": message,
        }
    )


def queued(number: int) -> str:
    return f"4bXyZ1{number}: from=<s@example.com>, size=10, nrcpt=1 (queue active)"


def test_a_message_that_is_not_utf8_is_read() -> None:
    found = read_entry(entry(1, list(b"4bXyZ1A: from=<\xff@x>, size=1, nrcpt=1 (queue active)")).encode())
    assert found is not None
    assert isinstance(parse(found[0], found[1]), Queued)


@pytest.mark.parametrize("line", [b"", b"{", b'{"MESSAGE": null}'])
def test_a_torn_journal_line_is_left_out(line: bytes) -> None:
    assert read_entry(line) is None


def follow(places: Places, wanted: int, capsys: pytest.CaptureFixture[str]) -> list[Event]:
    events: list[Event] = []
    follower = Follower(places, Log(), lambda event, _at: events.append(event))
    follower.start()
    deadline = time.monotonic() + 10
    while len(events) < wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    follower.stop()
    return events


def test_reading_goes_on_after_the_last_line_that_was_read(
    places: Places, fake_tool: FakeTools, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines").write_text(entry(1, queued(1)) + "\n" + entry(2, queued(2)) + "\n")
    journalctl = fake_tool("journalctl", f"cat {tmp_path}/lines; exec sleep 30")
    assert len(follow(places, 2, capsys)) == 2
    assert journalctl.calls[0][-1] == "SYSLOG_FACILITY=2"
    assert "--boot" in journalctl.calls[0]
    (tmp_path / "lines").write_text(entry(3, queued(3)) + "\n")
    assert len(follow(places, 1, capsys)) == 1
    assert "--after-cursor=s=a;i=2" in journalctl.calls[1]
    assert json.loads(places.log_cursor.read_text())["cursor"] == "s=a;i=3"


def test_a_journalctl_that_dies_is_started_again_where_it_was(
    places: Places, fake_tool: FakeTools, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = (
        f"if [ -e {tmp_path}/once ]; then printf '%s\\n' '{entry(2, queued(2))}'; exec sleep 30; fi; "
        f"touch {tmp_path}/once; printf '%s\\n' '{entry(1, queued(1))}'"
    )
    journalctl = fake_tool("journalctl", script)
    assert len(follow(places, 2, capsys)) == 2
    assert "--after-cursor=s=a;i=1" in journalctl.calls[1]


def test_a_cursor_that_the_journal_does_not_know_is_forgotten(
    places: Places, fake_tool: FakeTools, capsys: pytest.CaptureFixture[str]
) -> None:
    places.log_cursor.write_text(json.dumps({"cursor": "s=gone", "saved_at": time.time()}))
    script = (
        'case "$*" in *gone*) exit 1 ;; esac; ' + f"printf '%s\\n' '{entry(1, queued(1))}'; exec sleep 30"
    )
    journalctl = fake_tool("journalctl", script)
    assert len(follow(places, 1, capsys)) == 1
    assert "--lines=0" in journalctl.calls[1]


def test_an_old_cursor_is_not_used(
    places: Places, fake_tool: FakeTools, capsys: pytest.CaptureFixture[str]
) -> None:
    places.log_cursor.write_text(json.dumps({"cursor": "s=old", "saved_at": time.time() - 7200}))
    journalctl = fake_tool("journalctl", f"printf '%s\\n' '{entry(1, queued(1))}'; exec sleep 30")
    assert len(follow(places, 1, capsys)) == 1
    assert not any("after-cursor" in word for word in journalctl.calls[0])

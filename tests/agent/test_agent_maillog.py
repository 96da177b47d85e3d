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
from relay_agent.maillog import Delivery, Event, Queued, Rejected, parse, reason_of, without_addresses
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


def test_a_message_is_accepted_once_however_often_it_is_tried() -> None:
    traffic = Traffic(clock=lambda: 100.0)
    for _ in range(3):
        traffic.add(Queued("4bXyZ1A", "s@example.com", 10, 1), 100.0)
    traffic.add(Queued("4bXyZ1B", "s@example.com", 10, 1), 100.0)
    assert traffic.summary()["accepted"] == 2


def test_messages_that_waited_at_the_start_are_not_new() -> None:
    traffic = Traffic()
    traffic.expect(["4bXyZ1A"])
    traffic.add(Queued("4bXyZ1A", "s@example.com", 10, 1))
    assert traffic.summary()["accepted"] == 0


def test_a_queue_id_that_is_used_again_counts_again() -> None:
    traffic = Traffic()
    for _ in range(2):
        traffic.add(Queued("4bXyZ1A", "s@example.com", 10, 1))
        removed = parse("postfix/qmgr", "4bXyZ1A: removed")
        assert removed is not None
        traffic.add(removed)
    assert traffic.summary()["accepted"] == 2


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

"""Cases on the side of the clients: who may relay, what is taken in, and what survives."""

from __future__ import annotations

import re
import select
import smtplib
from collections.abc import Iterator

from builder.conformance.case import Case, Expect, behaving
from builder.conformance.client import raw_dialog, send, session
from builder.conformance.scene import Scene
from builder.standin.behaviour import Fault, Stage

STRANGER = "203.0.113.9"
_SPOOL = "/var/spool/postfix"
# How long an answer that must not come is waited for; one that comes later leaves its mark at the provider.
_ANSWER_SECONDS = 0.3


def _unknown_client(scene: Scene) -> None:
    """Check: a client from outside of the networks is refused before DATA."""
    with session(scene.relay.smtp_address, client=STRANGER) as smtp:
        smtp.docmd("MAIL", f"FROM:<{scene.relay.sender}>")
        code, text = smtp.docmd("RCPT", "TO:<victim@example.org>")
        scene.check(code == 554, f"RCPT from a stranger got {code} {text!r}, expected 554")
        code, _ = smtp.docmd("DATA")
        scene.check(code >= 500, f"DATA from a stranger got {code}, expected 5xx")


def _ehlo(scene: Scene) -> None:
    """Check: only what the relay can keep is offered."""
    with session(scene.relay.smtp_address) as smtp:
        offered = set(smtp.esmtp_features)
        for keyword in ("chunking", "etrn", "smtputf8", "vrfy"):
            scene.check(keyword not in offered, f"EHLO offers {keyword.upper()}")
        for keyword in ("pipelining", "8bitmime", "size"):
            scene.check(keyword in offered, f"EHLO does not offer {keyword.upper()}")
        code, _ = smtp.docmd("VRFY", "root")
        scene.check(code >= 500, f"VRFY got {code}, expected 5xx")


def _too_big(scene: Scene) -> None:
    """Check: a message over the limit is refused at MAIL when its size is declared."""
    limit = int(scene.relay.run(["postconf", "-h", "message_size_limit"]))
    mail = scene.mails(1, options=(f"SIZE={limit + 1}",))[0]
    with session(scene.relay.smtp_address) as smtp:
        sent = send(smtp, mail)
    scene.check(sent.reply.startswith("552"), f"a message over the limit got `{sent.reply}`, expected 552")


def _too_big_undeclared(scene: Scene) -> None:
    """Check: without a declared size it is refused at the end of DATA."""
    with session(scene.relay.smtp_address) as smtp:
        sent = send(smtp, scene.mails(1, body_bytes=200_000)[0])
    scene.check(sent.reply.startswith("552"), f"a message over the limit got `{sent.reply}`, expected 552")


def _many_recipients(scene: Scene) -> None:
    """Check: a long list is split to what the provider takes."""
    limit = int(scene.relay.run(["postconf", "-xh", "smtp_destination_recipient_limit"]))
    scene.send(scene.mails(1, recipients=2 * limit + 20))
    scene.check(scene.wait_for_delivered(2 * limit + 20), "not all recipients were served")
    most = max((len(message.recipients) for message in scene.provider.messages), default=0)
    scene.check(most <= limit, f"a message went to {most} recipients at once, {limit} allowed")


def _over_recipient_limit(scene: Scene) -> None:
    """Check: more recipients than the relay takes: it says so, and serves the others."""
    limit = int(scene.relay.run(["postconf", "-h", "smtpd_recipient_limit"]))
    sent = scene.send(scene.mails(1, recipients=limit + 5))[0]
    scene.check(len(sent.accepted) == limit, f"{len(sent.accepted)} recipients were taken, expected {limit}")


def _eight_bit(scene: Scene) -> None:
    """8-bit content arrives as it was sent."""
    text = "Grüße aus Köln, 你好".encode()
    content = f"From: <{scene.relay.sender}>\r\nSubject: 8bit\r\nMIME-Version: 1.0\r\n".encode()
    content += (
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + text + b"\r\n"
    )
    scene.send([scene.mail(scene.new_recipients(1), content=content, options=("BODY=8BITMIME",))])
    scene.check(scene.wait_for_delivered(1), "not delivered")
    bodies = [message.body.strip() for message in scene.provider.messages]
    scene.check(text in bodies, f"the content arrived as {bodies!r}")


def _smtputf8(scene: Scene) -> None:
    """Check: SMTPUTF8, which the provider does not take, is refused at once and not by a bounce."""
    with session(scene.relay.smtp_address) as smtp:
        code, text = smtp.docmd("MAIL", f"FROM:<{scene.relay.sender}> SMTPUTF8")
        scene.check(500 <= code < 600, f"SMTPUTF8 got {code} {text!r}, expected 5xx")


def _answers(smtp: smtplib.SMTP, timeout_seconds: float) -> bool:
    return bool(smtp.sock and select.select([smtp.sock], [], [], timeout_seconds)[0])


def _smuggling(scene: Scene) -> None:
    """Check: a bare newline around the final dot does not end a message."""
    ends = (b"\n.\n", b"\n.\r\n", b"\r.\r\n")
    for end in ends:
        one, two = scene.new_recipients(2)
        inner = f"MAIL FROM:<smuggled@example.com>\r\nRCPT TO:<{two}>\r\nDATA\r\n".encode()
        with session(scene.relay.smtp_address) as smtp:
            smtp.docmd("MAIL", f"FROM:<{scene.relay.sender}>")
            smtp.docmd("RCPT", f"TO:<{one}>")
            smtp.docmd("DATA")
            smtp.send(b"Subject: outer\r\n\r\nbody" + end + inner)
            # In two parts, or what refuses a client that does not wait for answers hides what is tried here.
            answered = _answers(smtp, _ANSWER_SECONDS * scene.relay.patience)
            scene.check(not answered, f"the relay took {end!r} for the end of a message")
            smtp.send(b"Subject: smuggled\r\n\r\nx\r\n.\r\n")
            smtp.getreply()
    scene.relay.wait_until_settled()
    whole = [message for message in scene.provider.messages if b"smuggled@example.com" in message.content]
    senders = {message.sender for message in scene.provider.messages}
    scene.check(senders == {scene.relay.sender}, f"messages were sent on from {sorted(senders)}")
    scene.check(len(whole) == len(ends), f"{len(whole)} of {len(ends)} messages arrived whole")


def _talks_too_early(scene: Scene) -> None:
    """Check: a client that sends a whole session at once is refused."""
    one = scene.new_recipients(1)[0].encode()
    packet = b"EHLO client.example.com\r\nMAIL FROM:<early@example.com>\r\nRCPT TO:<" + one + b">\r\nDATA\r\n"
    packet += b"Subject: early\r\n\r\nx\r\n.\r\nQUIT\r\n"
    said = raw_dialog(scene.relay.smtp_address, packet)
    refused = re.search(r"^5\d\d ", said, re.MULTILINE)
    scene.check(refused is not None, f"a client that does not wait for answers heard {said!r}")
    scene.relay.wait_until_settled()
    scene.check(not scene.provider.messages, "its message was sent on")


def _killed(scene: Scene) -> None:
    """Check: kill -9 of all daemons while mail is going out: nothing that was accepted is gone."""
    scene.send(scene.mails(60))
    scene.wait_for_delivered(10, timeout_seconds=15)
    scene.relay.run(["sh", "-c", _KILL_ALL], check=False)
    scene.notes.append(f"killed after {sum(scene.delivered().values())} of 60")
    for upstream in scene.upstreams:
        upstream.provider.clear()
    scene.relay.run(["sleep", "0.3"])
    scene.relay.start_postfix()
    scene.relay.flush()
    scene.check(scene.wait_for_delivered(60, timeout_seconds=40), "mail is missing after the restart")


# The master and its children, by their ids.
_KILL_ALL = f"""
m=$(tr -d ' ' < {_SPOOL}/pid/master.pid)
kill -9 "$m" $(cat "/proc/$m/task/$m/children")
"""


def _full_disk(scene: Scene) -> None:
    """Check: no room in the queue: the client is told to come back, and nothing is lost."""
    scene.send(scene.mails(3))
    scene.relay.run(["sh", "-c", f"dd if=/dev/zero of={_SPOOL}/ballast bs=1M 2>/dev/null || :"])
    sent = scene.send(scene.mails(3, body_bytes=50_000))
    for one in sent:
        scene.check(one.reply.startswith("4"), f"on a full disk the client got `{one.reply}`, expected 4xx")
    scene.relay.run(["rm", "-f", f"{_SPOOL}/ballast"])
    scene.check(scene.send(scene.mails(1))[0].reply.startswith("250"), "refused although there is room again")


def _full_inodes(scene: Scene) -> None:
    """Check: without inodes Postfix answers nothing (mail_queue_enter waits), so nothing is accepted."""
    scene.send(scene.mails(3))
    scene.wait_for_delivered(3)
    fill = f"mkdir {_SPOOL}/many && cd {_SPOOL}/many && seq 1 30000 | xargs touch"
    scene.relay.run(["sh", "-c", fill], check=False)
    said = raw_dialog(scene.relay.smtp_address, *_one_recipient(scene), wait_seconds=2)
    scene.check("250 2.1.5" not in said, f"a recipient was accepted without room for it: {said!r}")
    scene.relay.run(["rm", "-rf", f"{_SPOOL}/many"])
    scene.check(scene.send(scene.mails(1))[0].reply.startswith("250"), "refused although there is room again")


def _one_recipient(scene: Scene) -> Iterator[bytes]:
    yield b"EHLO client.example.com\r\n"
    yield f"MAIL FROM:<{scene.relay.sender}>\r\n".encode()
    yield f"RCPT TO:<{scene.new_recipients(1)[0]}>\r\n".encode()


CASES = (
    Case(
        "unknown-client",
        "A client outside of the networks is refused before DATA",
        act=_unknown_client,
        needs=frozenset({"xclient"}),
    ),
    Case("ehlo", "EHLO offers only what can be kept; VRFY is off", act=_ehlo),
    Case("message-too-big", "Over the size limit: refused at MAIL", act=_too_big),
    Case(
        "message-too-big-undeclared",
        "Over the size limit, undeclared: refused after DATA",
        parameters={"message_size_limit": "100000"},
        act=_too_big_undeclared,
    ),
    Case("many-recipients", "A long list of recipients is split for the provider", act=_many_recipients),
    Case(
        "over-recipient-limit",
        "More recipients than a message may have: the rest is refused with 452",
        act=_over_recipient_limit,
        repair_seconds=40,
    ),
    Case("eight-bit", "8-bit content arrives unchanged", act=_eight_bit),
    Case("smtputf8", "SMTPUTF8 is refused at once", act=_smtputf8),
    Case("smuggling", "Bare newlines do not smuggle a second message", act=_smuggling),
    Case("pipelining-abuse", "A client that does not wait for answers is refused", act=_talks_too_early),
    Case(
        "killed",
        "kill -9 of every daemon in mid-delivery: nothing accepted is lost",
        behaviours=behaving(Fault.SLOW, stage=Stage.END_OF_DATA, seconds=0.3),
        act=_killed,
        needs=frozenset({"stop"}),
        duplicates=20,
        repair_seconds=40,
    ),
    Case(
        "disk-full",
        "A full disk: the client is told to try again",
        act=_full_disk,
        needs=frozenset({"disk"}),
        expect=Expect(client=""),
    ),
    Case(
        "inodes-full",
        "No inode left: nothing is accepted until there is room",
        act=_full_inodes,
        needs=frozenset({"disk"}),
    ),
)

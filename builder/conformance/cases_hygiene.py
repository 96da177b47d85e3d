"""Cases about headers, sender rewriting and reports of non-delivery."""

from __future__ import annotations

import re

from builder.conformance.case import Case, Expect, behaving
from builder.conformance.client import Mail
from builder.conformance.scene import Scene
from builder.standin.behaviour import Fault
from builder.standin.journal import Message

_HELO, _CLIENT = "client.example.com", "10.1.2.3"


def _delivered(scene: Scene, mail: Mail) -> Message | None:
    scene.send([mail])
    if not scene.wait_for_delivered(len(scene.accepted())):
        scene.problems.append("not delivered")
        return None
    return next(message for message in scene.provider.messages if message.recipients == mail.recipients)


def _values(message: Message, name: str) -> list[str]:
    return [value for header, value in message.headers if header.lower() == name.lower()]


def _expect(scene: Scene, message: Message, name: str, wanted: list[str]) -> None:
    found = _values(message, name)
    scene.check(found == wanted, f"{name} arrived as {found}, expected {wanted}")


def _headers(scene: Scene) -> None:
    """Check: what tells about the inside is gone, the rest and attached messages are as they were."""
    attached = (
        "Content-Type: message/rfc822\r\n\r\nReceived: from attached\r\nX-Mailer: attached\r\n\r\nx\r\n"
    )
    content = (
        "Received: from laptop (laptop.corp [10.0.0.1]) by mail.corp (Postfix) with ESMTP id 1\r\n"
        "Received: from inner\r\n by middle.corp; Sun, 22 Nov 2026 10:00:00 +0000\r\n"
        "User-Agent: SecretMailer 1.0\r\nX-Mailer: x\r\nX-Internal: y\r\nX-Kept: z\r\n"
        "From: App <app@example.com>\r\nSubject: s\r\nMIME-Version: 1.0\r\n"
        f'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n{attached}--b--\r\n'
    )
    message = _delivered(scene, Mail(scene.new_recipients(1), content=content.encode()))
    if message is None:
        return
    for name in ("User-Agent", "X-Mailer", "X-Internal"):
        _expect(scene, message, name, [])
    _expect(scene, message, "X-Kept", ["z"])
    _check_hops(scene, _values(message, "Received"), earlier=2)
    scene.check(b"Received: from attached" in message.content, "an attached message was changed")


def _check_hops(scene: Scene, hops: list[str], *, earlier: int) -> None:
    """Check: a line for each hop, so that a loop still ends, and no name or address of any client in them."""
    scene.check(len(hops) == 1 + earlier, f"{len(hops)} Received headers arrived: {hops}")
    text = "\n".join(hops)
    for inside in ("laptop", "10.0.0.1", "inner", "middle", _HELO, _CLIENT, "127.0.0.1", "localhost", "from"):
        scene.check(inside not in text, f"a Received header tells of `{inside}`: {hops}")
    own = re.match(r"by \S+ \(Relay\) with E?SMTP\S* id \S+", hops[0])
    scene.check(own is not None, f"the relay's own Received header has no queue ID: {hops[0]}")
    scene.check(" +0000" in hops[0], f"the relay's own Received header has no date: {hops[0]}")


def _client_hidden(scene: Scene) -> None:
    """Check: the relay's own Received header does not tell which client it was."""
    mail = Mail(scene.new_recipients(1))
    scene.send([mail], client=_CLIENT)
    if scene.wait_for_delivered(1):
        _check_hops(scene, _values(scene.provider.messages[0], "Received"), earlier=0)
    else:
        scene.problems.append("not delivered")


def _loop(scene: Scene) -> None:
    """Check: a message that goes in circles is given up, although what its hops say is removed."""
    limit = int(scene.relay.run(["postconf", "-h", "hopcount_limit"]))
    hop = "Received: from a.corp by b.corp with SMTP id 1; Sun, 22 Nov 2026 10:00:00 +0000\r\n"
    content = hop * (limit - 1) + "From: <app@example.com>\r\nSubject: s\r\n\r\nx\r\n"
    sent = scene.send([Mail(scene.new_recipients(1), content=content.encode())])[0]
    scene.check(sent.reply.startswith("554"), f"a message with {limit} hops got `{sent.reply}`, expected 554")


def _ses_headers(scene: Scene) -> None:
    """Check: SES' headers are there once, whatever the client sent."""
    for sent in ((), (("X-SES-CONFIGURATION-SET", "other"),), (("x-ses-configuration-set", "marketing"),)):
        message = _delivered(scene, Mail(scene.new_recipients(2), headers=sent))
        if message is not None:
            _expect(scene, message, "X-SES-CONFIGURATION-SET", ["marketing"])
            _expect(scene, message, "X-SES-MESSAGE-TAGS", ["team=ops, kind=bulk"])
            _expect(scene, message, "X-Relay", ["yes"])
            _expect(scene, message, "X-Price$", ["$5 off"])
            markers = [name for name, _ in message.headers if name.startswith("X-Relay-")]
            scene.check(not markers, f"markers of the relay were sent on: {markers}")


def _rewritten(scene: Scene) -> None:
    """Check: senders become the account's, kept domains and display names stay."""
    for sender, header, envelope, wanted in (
        (
            "root@host.internal",
            "Cron <root@host.internal>",
            "account$1@gmail.example",
            "Cron <account$1@gmail.example>",
        ),
        ("root@host.internal", "root@host.internal", "account$1@gmail.example", "<account$1@gmail.example>"),
        ("me@ours.example", "Me <me@ours.example>", "me@ours.example", "Me <me@ours.example>"),
    ):
        content = f"From: {header}\r\nReply-To: back@host.internal\r\nSubject: s\r\n\r\nx\r\n".encode()
        message = _delivered(scene, Mail(scene.new_recipients(1), sender=sender, content=content))
        if message is None:
            continue
        scene.check(
            message.sender == envelope, f"the sender arrived as {message.sender}, expected {envelope}"
        )
        _expect(scene, message, "From", [wanted])
        _expect(scene, message, "Reply-To", ["back@host.internal"])


def _report_kept(scene: Scene) -> None:
    """Check: a report of non-delivery is kept in a file and not sent with a null sender."""
    scene.send(scene.mails(1))
    kept = scene.kept_reports()
    scene.check("Diagnostic-Code" in kept, "no report was kept")
    scene.check("550 5.1.1" in kept, "the report does not hold the provider's answer")
    scene.check_no_null_sender()


def _notice(scene: Scene) -> None:
    """Check: a notice reaches the address, from a sender that the provider knows."""
    scene.send(scene.mails(1))
    arrived = scene.provider.wait_for(
        lambda: [m for m in scene.provider.messages if "bounces$1@example.com" in m.recipients],
        timeout_seconds=15,
    )
    senders = {message.sender for message in arrived}
    scene.check(senders == {"mailer$1@example.com"}, f"the notice came from {senders}")


CASES = (
    Case(
        "headers-stripped",
        "Internal headers are removed, attached messages untouched",
        setup="hygiene",
        act=_headers,
    ),
    Case(
        "received-without-client",
        "The relay's own Received header does not name the client",
        setup="hygiene",
        act=_client_hidden,
        needs=frozenset({"xclient"}),
    ),
    Case(
        "received-counted",
        "With stripped Received headers a loop still ends",
        setup="hygiene",
        act=_loop,
        expect=Expect(client=""),
    ),
    Case("ses-headers", "SES' headers and set headers: exactly once", setup="hygiene", act=_ses_headers),
    Case(
        "sender-rewritten", "Senders that the provider refuses are replaced", setup="rewrite", act=_rewritten
    ),
    Case(
        "report-kept",
        "A report of non-delivery is kept on the relay",
        behaviours=behaving(Fault.UNKNOWN_RECIPIENT),
        act=_report_kept,
        expect=Expect(bounced=1),
        needs=frozenset({"reports"}),
    ),
    Case(
        "notice-sent",
        "A notice of non-delivery goes to the address that is configured",
        behaviours=behaving(Fault.UNKNOWN_RECIPIENT, match="notice-sent.*"),
        act=_notice,
        setup="rewrite",
        expect=Expect(bounced=1),
    ),
)

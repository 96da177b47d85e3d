"""Cases about who may send what: access rules, sender domains by network, limits, submission."""

from __future__ import annotations

import base64
import smtplib

from builder.conformance.case import Case, Expect
from builder.conformance.client import Mail, Sent, send, session, start_tls
from builder.conformance.local import TEST_PASSWORD, TEST_USER
from builder.conformance.scene import Scene

_OFFICE, _LAB = "10.1.2.3", "10.1.9.9"
_XCLIENT = frozenset({"xclient"})


def _one(scene: Scene, mail: Mail, *, client: str | None = None) -> Sent:
    return scene.send([mail], client=client)[0]


def _refused(scene: Scene, sent: Sent, what: str) -> None:
    scene.check(sent.reply.startswith("554"), f"{what} got `{sent.reply}`, expected 554")


def _taken(scene: Scene, sent: Sent, what: str) -> None:
    scene.check(sent.reply.startswith("250"), f"{what} got `{sent.reply}`, expected 250")


def _senders(scene: Scene) -> None:
    to = scene.new_recipients
    sent = _one(scene, Mail(to(1), sender="bad@example.com"))
    _refused(scene, sent, "an exact sender that is rejected")
    scene.check("you owe $5" in sent.reply, f"the client was told `{sent.reply}`, not the rule's text")
    _refused(scene, _one(scene, Mail(to(1), sender="x@sub.evil.example")), "a sender in a rejected domain")
    _refused(scene, _one(scene, Mail(to(1), sender="X1@EXAMPLE.org")), "a sender that a pattern rejects")
    _taken(scene, _one(scene, Mail(to(1), sender="x1@example.org.example.com")), "another sender")
    _taken(scene, _one(scene, Mail(to(1), sender="good@evil.example")), "an exception before the rule")


def _hold(scene: Scene) -> None:
    _taken(scene, _one(scene, Mail(scene.new_recipients(1), sender="hold@example.com")), "a held sender")
    queue = scene.relay.wait_until_settled()
    held = [item for item in queue if item.queue_name == "hold"]
    scene.check(len(held) == 1, f"{len(held)} messages are on hold, expected 1")
    scene.relay.run(["postsuper", "-H", "ALL"])


def _discard(scene: Scene) -> None:
    other = scene.new_recipients(1)[0]
    sent = send_with_log(scene, Mail(("sink@drop.example", other)))
    _taken(scene, sent, "a message with one recipient that is discarded")
    scene.check(scene.wait_for_delivered(1), "the other recipient did not get it")
    names = {name for message in scene.provider.messages for name in message.recipients}
    scene.check("sink@drop.example" not in names, "the discarded recipient was sent on")


def send_with_log(scene: Scene, mail: Mail) -> Sent:
    """Send without keeping account of a recipient that is discarded on purpose."""
    with session(scene.relay.smtp_address) as smtp:
        sent = send(smtp, mail)
    kept = tuple(name for name in sent.accepted if not name.endswith("@drop.example"))
    scene.sent.append(Sent(mail, sent.reply, kept))
    return sent


def _recipients(scene: Scene) -> None:
    _refused(scene, _one(scene, Mail(("someone@blocked.example",))), "a recipient in a rejected domain")
    _taken(scene, _one(scene, Mail(scene.new_recipients(1))), "another recipient")


def _networks(scene: Scene) -> None:
    to = scene.new_recipients
    _taken(scene, _one(scene, Mail(to(1), sender="a@office.example"), client=_OFFICE), "the office's domain")
    _taken(scene, _one(scene, Mail(to(1), sender="a@x.office.example"), client=_OFFICE), "its subdomain")
    _refused(scene, _one(scene, Mail(to(1), sender="a@lab.example"), client=_OFFICE), "a foreign domain")
    _taken(scene, _one(scene, Mail(to(1), sender="a@lab.example"), client=_LAB), "the narrower network")
    _refused(
        scene, _one(scene, Mail(to(1), sender="a@office.example"), client=_LAB), "the wider one's domain"
    )
    _taken(scene, _one(scene, Mail(to(1), sender="any@where.example"), client="10.200.0.1"), "no rule")


def _message_rate(scene: Scene) -> None:
    sent = scene.send(scene.mails(8), client="10.200.0.7")
    refused = [one for one in sent if one.reply.startswith("450")]
    scene.check(len(refused) == 3, f"{len(refused)} of 8 messages were refused, 5 a minute are allowed")


def _exempt(scene: Scene) -> None:
    sent = scene.send(scene.mails(8), client="10.99.0.1")
    refused = [one.reply for one in sent if not one.reply.startswith("250")]
    scene.check(not refused, f"an exempt client was refused: {refused}")


def _login(smtp: smtplib.SMTP, user: str, password: str) -> int:
    token = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    return smtp.docmd("AUTH", f"PLAIN {token}")[0]


def _submission(scene: Scene) -> None:
    address = scene.relay.submission_address
    with session(address, client="203.0.113.9") as smtp:
        scene.check("auth" not in smtp.esmtp_features, "AUTH is offered before TLS")
        code, _ = smtp.docmd("MAIL", "FROM:<app@example.com>")
        scene.check(code == 530, f"MAIL without TLS got {code}, expected 530")
        start_tls(smtp)
        sent = send(smtp, Mail(scene.new_recipients(1)))
        _refused(scene, sent, "a client that has not logged in")
        scene.check(_login(smtp, TEST_USER, "wrong") == 535, "a wrong password was taken")
        scene.check(_login(smtp, TEST_USER, TEST_PASSWORD) == 235, "the right password was refused")
        sent = send(smtp, Mail(scene.new_recipients(1)))
        scene.sent.append(sent)
        _taken(scene, sent, "a client that has logged in")
    scene.check(scene.wait_for_delivered(1), "not delivered")


_ANY = Expect(client="")

CASES = (
    Case(
        "access-senders",
        "Sender rules: exact, domain and pattern, in order",
        act=_senders,
        setup="rules",
        expect=_ANY,
    ),
    Case("access-hold", "A held sender's mail waits on hold", act=_hold, setup="rules"),
    Case(
        "access-discard",
        "A discarded recipient does not take the others with it",
        act=_discard,
        setup="rules",
    ),
    Case("access-recipients", "Recipient rules are wired in", act=_recipients, setup="rules", expect=_ANY),
    Case(
        "sender-domains",
        "Each network sends as its own domains; the narrowest network decides",
        act=_networks,
        setup="rules",
        needs=_XCLIENT,
        expect=_ANY,
    ),
    Case(
        "client-rate",
        "A limit per client holds for networks too",
        act=_message_rate,
        setup="limits",
        needs=_XCLIENT,
        expect=_ANY,
    ),
    Case("client-exempt", "An exempt client has no limit", act=_exempt, setup="limits", needs=_XCLIENT),
    Case(
        "submission",
        "Port 587: no login before TLS, no mail without a login, from any network",
        act=_submission,
        setup="submission",
        needs=frozenset({"xclient", "submission"}),
    ),
)

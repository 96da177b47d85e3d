"""Cases about the null sender: mail of clients that has none, and where the relay's own notices go."""

from __future__ import annotations

from builder.conformance.case import Case, Expect, behaving
from builder.conformance.client import Mail, Sent, send, session
from builder.conformance.client import start_tls as start_client_tls
from builder.conformance.local import TEST_PASSWORD, TEST_USER
from builder.conformance.scene import Scene
from builder.standin.behaviour import Behaviour, Fault, Stage

MAILGUN = "smtp.mailgun.org"
_NULL_REFUSED = Behaviour(Fault.REPLY, stage=Stage.MAIL, reply="501 5.1.7 Invalid sender", match="")


def _null(scene: Scene) -> Mail:
    return Mail(scene.new_recipients(1), sender="")


def _refused(scene: Scene, sent: Sent) -> None:
    wanted = sent.reply.startswith("550 5.7.1") and "null sender" in sent.reply
    scene.check(wanted, f"mail with a null sender got `{sent.reply}`, expected 550 5.7.1 and the reason")


def _null_refused(scene: Scene) -> None:
    """Check: the client hears why; other mail in the same session is taken."""
    sent = scene.send([_null(scene), *scene.mails(1)])
    _refused(scene, sent[0])
    scene.check(sent[1].reply.startswith("250"), f"mail with a sender got `{sent[1].reply}`, expected 250")
    scene.check(scene.wait_for_delivered(1), "mail with a sender was not delivered")
    scene.check(
        not scene.kept_reports(), "a client's mail was put into the spool for the relay's own reports"
    )
    scene.check_no_null_sender()


def _null_refused_after_login(scene: Scene) -> None:
    """Check: the same on the port for clients that log in."""
    with session(scene.relay.submission_address, client="203.0.113.9") as smtp:
        start_client_tls(smtp)
        smtp.login(TEST_USER, TEST_PASSWORD)
        _refused(scene, send(smtp, _null(scene)))


def _null_rewritten(scene: Scene) -> None:
    """Check: it goes out from the sender for notices, size and options of MAIL FROM with it."""
    mail = Mail(scene.new_recipients(1), sender="", options=("SIZE=300", "BODY=8BITMIME"))
    scene.send([mail])
    if not scene.wait_for_delivered(1):
        scene.problems.append("not delivered")
    took = [message.sender for message in scene.provider.messages if message.recipients == mail.recipients]
    scene.check(took == ["mailer@example.com"], f"it came from {took}, expected mailer@example.com")
    scene.check_no_null_sender()


def _null_passed(scene: Scene) -> None:
    """Check: the provider is asked; where it refuses, the relay keeps the report with the message."""
    mail, other = _null(scene), _null(scene)
    with session(scene.relay.smtp_address) as smtp:
        scene.check(send(smtp, mail).reply.startswith("250"), "a null sender was refused")
        took = scene.provider.wait_for(
            lambda: [message for message in scene.provider.messages if message.recipients == mail.recipients],
            timeout_seconds=15,
        )
        scene.check([message.sender for message in took] == [""], f"the provider got {took}")
        scene.provider.behave(_NULL_REFUSED)
        scene.check(send(smtp, other).reply.startswith("250"), "a null sender was refused")
    kept = scene.kept_reports()
    scene.check("501 5.1.7 Invalid sender" in kept, "no report was kept of what the provider refused")
    scene.check(other.recipients[0] in kept, "the report does not name the recipient")


def _report_of_a_routed_sender(scene: Scene) -> None:
    """Check: a report to a sender whose domain has a route is kept too; it is not sent along the route."""
    scene.send([Mail(scene.new_recipients(1), sender="app@partner.example")])
    kept = scene.kept_reports()
    scene.check("app@partner.example" in kept, "no report was kept")
    scene.check("550 5.1.1" in kept, "the report does not hold the provider's answer")
    scene.check_no_null_sender()


def _notice_with_routes(scene: Scene) -> None:
    """Check: the notice goes to its address along that domain's route, the sender's report into the spool."""
    scene.send([Mail(scene.new_recipients(1), sender="app@partner.example")])
    provider = scene.upstream(MAILGUN).provider
    arrived = provider.wait_for(
        lambda: [m for m in provider.messages if "bounces@partner.example" in m.recipients],
        timeout_seconds=15,
    )
    senders = [message.sender for message in arrived]
    scene.check(senders == ["mailer@example.com"], f"the notice came from {senders}")
    kept = scene.kept_reports()
    scene.check("To: app@partner.example" in kept, "no report was kept")
    scene.check("To: bounces@partner.example" not in kept, "the notice was put into the spool")
    scene.check_no_null_sender()


_REPORTS = frozenset({"reports"})
_UNKNOWN = behaving(Fault.UNKNOWN_RECIPIENT)

CASES = (
    Case(
        "null-sender-refused",
        "Mail with a null sender from a client is refused at once, with the reason",
        act=_null_refused,
        expect=Expect(client=""),
        needs=_REPORTS | {"null-refused"},
    ),
    Case(
        "null-sender-refused-after-login",
        "The same on port 587",
        act=_null_refused_after_login,
        setup="submission",
        needs=frozenset({"xclient", "submission"}),
    ),
    Case(
        "null-sender-rewritten",
        "Mail with a null sender goes out from the sender for notices, where relay.yaml says so",
        act=_null_rewritten,
        setup="notices",
    ),
    Case(
        "null-sender-passed",
        "Mail with a null sender is offered as it is, where relay.yaml says so; a refusal is kept",
        act=_null_passed,
        setup="null-passed",
        needs=_REPORTS,
    ),
    Case(
        "report-kept-despite-route",
        "A report to a sender whose domain has a route is kept on the relay",
        behaviours=_UNKNOWN,
        act=_report_of_a_routed_sender,
        setup="routes",
        expect=Expect(bounced=1),
        needs=_REPORTS,
    ),
    Case(
        "notice-sent-along-route",
        "A notice goes to its address along a route, the report to the sender is kept",
        behaviours=_UNKNOWN,
        act=_notice_with_routes,
        setup="notices",
        expect=Expect(bounced=1),
        needs=_REPORTS,
    ),
)

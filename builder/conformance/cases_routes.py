"""Cases with several providers: a fallback in the same attempt, routes with own credentials, a warm-up."""

from __future__ import annotations

from builder.conformance.case import Case, Expect, MapState, behaving
from builder.conformance.client import Mail
from builder.conformance.scene import Scene
from builder.standin.behaviour import Behaviour, Certificate, Fault, Stage

SECOND = "email-smtp.eu-west-1.amazonaws.com"
SENDGRID, MAILGUN = "smtp.sendgrid.net", "smtp.mailgun.org"

# What must make the second provider take over at once: each fault of facts 4.9 but the message's own.
_TAKEN_OVER = (
    ("greeting-421", behaving(Fault.GREETING_421)),
    ("throttled", behaving(Fault.THROTTLED)),
    ("daily-quota", behaving(Fault.DAILY_QUOTA)),
    ("rcpt-451", behaving(Fault.REPLY, stage=Stage.RCPT, reply="451 4.3.0 Temporary service failure")),
    ("end-of-data-454", behaving(Fault.REPLY, stage=Stage.END_OF_DATA, reply="454 Throttling failure")),
    ("auth-refused", behaving(Fault.AUTH_REFUSED)),
    ("auth-temporary", behaving(Fault.AUTH_TEMPORARY)),
    ("auth-required", behaving(Fault.AUTH_REQUIRED)),
    ("gmail-quota", behaving(Fault.GMAIL_QUOTA)),
    ("starttls-stripped", behaving(Fault.NO_STARTTLS)),
    ("wrong-certificate", behaving(Fault.CERTIFICATE, certificate=Certificate.WRONG_NAME)),
    ("refuses", behaving(Fault.REFUSE)),
    ("drops", behaving(Fault.DROP)),
)


def _fallback(name: str, behaviours: tuple[Behaviour, ...]) -> Case:
    return Case(
        f"fallback-{name}",
        f"{name} at the first provider: the second one takes it in the same attempt",
        behaviours=behaviours,
        setup="fallback",
        act=_second_took_it,
        expect=Expect(delivered=1, queued=0),
    )


def _second_took_it(scene: Scene) -> None:
    scene.send(scene.mails(1))
    scene.wait_for_delivered(1)
    second = scene.upstream(SECOND).provider
    scene.check(
        len(second.messages) == 1, f"the second provider took {len(second.messages)} messages, expected 1"
    )


def _both_down(scene: Scene) -> None:
    for upstream in scene.upstreams:
        upstream.provider.behave(Behaviour(Fault.THROTTLED))
    scene.send(scene.mails(1))


def _routes(scene: Scene) -> None:
    """Check: each route has its own provider and its own login; a recipient's route comes first."""
    plain = Mail(scene.new_recipients(1))
    by_sender = Mail(scene.new_recipients(1), sender="news@mail.news.example")
    by_recipient = Mail(scene.new_recipients(1, domain="partner.example"), sender="news@news.example")
    by_subdomain = Mail(scene.new_recipients(1, domain="eu.partner.example"))
    scene.send([plain, by_sender, by_recipient, by_subdomain])
    scene.check(scene.wait_for_delivered(4), "not all were delivered")
    for mail, host in (
        (plain, scene.upstreams[0].host),
        (by_sender, SENDGRID),
        (by_recipient, MAILGUN),
        (by_subdomain, MAILGUN),
    ):
        upstream = scene.upstream(host)
        took = [message for message in upstream.provider.messages if message.recipients == mail.recipients]
        scene.check(len(took) == 1, f"mail from {mail.sender} to {mail.recipients[0]} did not go to {host}")
        logins = {message.user for message in took}
        scene.check(logins <= {upstream.user}, f"{host} was given the login of {logins}")


def _accounts(scene: Scene) -> None:
    """Check: two accounts at one host are told apart, also where sessions are used again."""
    first, second = scene.upstreams
    plain = scene.mails(10)
    news = scene.mails(10, sender="news@news.example")
    for pair in zip(plain, news, strict=True):
        scene.send(pair)
    scene.check(scene.wait_for_delivered(20), "not all were delivered")
    for mails, upstream in ((plain, first), (news, second)):
        wanted = {mail.recipients for mail in mails}
        logins = {each.user for each in first.provider.messages if each.recipients in wanted}
        scene.check(
            logins == {upstream.user}, f"mail for {upstream.user} was sent with the login of {logins}"
        )


def _account_without_credential(scene: Scene) -> None:
    """Check: an account without a credential waits; it does not borrow the other's at the same host."""
    first, second = scene.upstreams
    scene.relay.set_credentials({first.key: f"{first.user}:{first.password}"})
    scene.send([Mail(scene.new_recipients(1), sender="news@news.example"), *scene.mails(1)])
    scene.check(scene.wait_for_delivered(1), "mail for the other account was held up")
    senders = {message.sender for message in second.provider.messages}
    scene.check("news@news.example" not in senders, "mail was sent with another account's login")


def _route_without_credential(scene: Scene) -> None:
    """Check: a route without a credential waits; it does not borrow another's."""
    first = scene.upstreams[0]
    scene.relay.set_credentials({first.host: f"{first.user}:{first.password}"})
    scene.send([Mail(scene.new_recipients(1), sender="news@news.example"), *scene.mails(1)])
    scene.check(scene.wait_for_delivered(1), "mail for the other provider was held up")
    scene.check(scene.upstream(SENDGRID).provider.counts.offered == 0, "mail was offered without a login")


def _warm_up(scene: Scene) -> None:
    """Check: about a quarter of the mail goes to the provider that warms up."""
    scene.send(scene.mails(120))
    scene.check(scene.wait_for_delivered(120, timeout_seconds=40), "not all were delivered")
    part = len(scene.upstream(SECOND).provider.messages)
    # Four standard deviations of a binomial distribution around 30.
    scene.check(11 <= part <= 49, f"{part} of 120 went to the provider that warms up, expected about 30")
    scene.notes.append(f"{part} of 120")


CASES = (
    *(_fallback(name, behaviours) for name, behaviours in _TAKEN_OVER),
    Case(
        "fallback-final",
        "550 5.1.1 is final: the second provider is not tried",
        behaviours=behaving(Fault.UNKNOWN_RECIPIENT),
        setup="fallback",
        expect=Expect(bounced=1, offered=1),
    ),
    Case(
        "fallback-both",
        "Both providers throttle: mail waits",
        setup="fallback",
        act=_both_down,
        expect=Expect(queued=1),
    ),
    Case(
        "fallback-no-credential",
        "No credential at all: mail waits, and neither provider sees it",
        setup="fallback",
        credentials=MapState.EMPTY,
        expect=Expect(queued=1, offered=0, auths=0),
    ),
    Case(
        "routes",
        "Routes by sender and recipient domain, each with its own credential",
        setup="routes",
        act=_routes,
    ),
    Case(
        "route-without-credential",
        "A route whose credential is missing waits; others go on",
        setup="routes",
        act=_route_without_credential,
        needs=frozenset({"map"}),
        expect=Expect(delivered=1, queued=1),
    ),
    Case(
        "accounts",
        "Two accounts at one provider: each mail is sent with its own login",
        setup="accounts",
        act=_accounts,
        expect=Expect(delivered=20, queued=0),
    ),
    Case(
        "account-without-credential",
        "A second account whose credential is missing waits; it does not use the first one's",
        setup="accounts",
        act=_account_without_credential,
        needs=frozenset({"map"}),
        expect=Expect(delivered=1, queued=1),
    ),
    Case("warm-up", "A part of the mail goes to the provider that warms up", setup="warm-up", act=_warm_up),
)

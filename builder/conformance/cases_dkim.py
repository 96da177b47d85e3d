"""Cases about DKIM: mail is signed when it comes in, and not accepted while it cannot be."""

from __future__ import annotations

from collections.abc import Callable

from builder.conformance.case import Case, Expect
from builder.conformance.client import Mail
from builder.conformance.scene import Scene
from builder.conformance.signer import Signer

_NEEDS = frozenset({"signer"})
_MANY = 5


def _signed(scene: Scene) -> None:
    """Check: one signature for each domain that has a key, none for another."""
    wanted = {"example.com": 1, "deep.news.example.com": 1, "other.example": 0}
    mails = {domain: Mail(scene.new_recipients(1), sender=f"app@{domain}") for domain in wanted}
    scene.send(list(mails.values()))
    scene.wait_for_delivered(len(wanted))
    for domain, mail in mails.items():
        found = [
            value
            for message in scene.provider.messages
            if message.recipients == mail.recipients
            for name, value in message.headers
            if name.lower() == "dkim-signature"
        ]
        scene.check(len(found) == wanted[domain], f"mail of {domain} arrived with {len(found)} signatures")


def _while_broken(
    scene: Scene, break_it: Callable[[Signer], None], mend_it: Callable[[Signer], None]
) -> None:
    """Check: every client is told to come back, nothing is kept, and all of it is taken afterwards."""
    signer = scene.relay.signer
    if signer is None:
        scene.problems.append("the relay has no signer")
        return
    mails = scene.mails(_MANY)
    break_it(signer)
    try:
        for sent in scene.send(mails):
            scene.check(sent.reply.startswith("4"), f"the client got `{sent.reply}`, expected 4xx")
        scene.check(not scene.relay.queue(), "something was kept that is not signed")
    finally:
        mend_it(signer)
    scene.sent.clear()
    scene.send(mails)
    scene.wait_for_delivered(_MANY)


def _down(scene: Scene) -> None:
    _while_broken(scene, Signer.stop, Signer.start)


def _bad_key(scene: Scene) -> None:
    def break_it(signer: Signer) -> None:
        signer.break_key("example.com")
        signer.reload()

    def mend_it(signer: Signer) -> None:
        signer.new_key("example.com")
        signer.reload()

    _while_broken(scene, break_it, mend_it)


CASES = (
    Case("dkim-signed", "Mail is signed for its domain, once", setup="dkim", needs=_NEEDS, act=_signed),
    Case(
        "dkim-signer-down",
        "The signer is down: mail waits at the client",
        setup="dkim",
        needs=_NEEDS,
        act=_down,
        expect=Expect(delivered=_MANY),
    ),
    Case(
        "dkim-bad-key",
        "The key is none: mail waits at the client",
        setup="dkim",
        needs=_NEEDS,
        act=_bad_key,
        expect=Expect(delivered=_MANY),
    ),
)

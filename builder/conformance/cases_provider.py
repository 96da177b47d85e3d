"""Cases in which the provider, its certificate or the credential is at fault (facts 4.9), and more."""

from __future__ import annotations

import time

from builder.conformance.case import Case, Expect, MapState, behaving
from builder.conformance.relay import wait_until
from builder.conformance.scene import Scene
from builder.standin.behaviour import Behaviour, Certificate, Fault, Stage

# Mail that waits: it was accepted, it is in the queue, and nobody was told that it failed.
# So long is a session of no use to the queue manager before the next message comes.
_PAUSE_SECONDS = 0.2
# More sessions than are opened at first: each counts against the provider as one of a cohort.
_BURST = 60
_WAITS = Expect(queued=1, delivered=0)
# The same, and the provider never got as far as a MAIL command or a credential.
_WAITS_UNTRIED = Expect(queued=1, delivered=0, offered=0, auths=0)


def _gmail(stage: Stage) -> Case:
    return Case(
        f"gmail-quota-at-{stage.value.replace('_', '-')}",
        f"550 5.4.5 at {stage}: a day's quota is not a reason to bounce",
        behaviours=behaving(Fault.GMAIL_QUOTA, stage=stage),
        expect=Expect(queued=1, delivered=0, reason="4.4.5"),
    )


def _certificate(kind: Certificate, title: str) -> Case:
    return Case(
        f"certificate-{kind.value.replace('_', '-')}",
        f"{title}: mail waits and no credential is sent",
        behaviours=behaving(Fault.CERTIFICATE, certificate=kind),
        expect=_WAITS_UNTRIED,
    )


def _reply(name: str, stage: Stage, text: str, title: str, expect: Expect) -> Case:
    return Case(name, title, behaviours=behaving(Fault.REPLY, stage=stage, reply=text), expect=expect)


# -- cases that do more than send


def _bursts(scene: Scene) -> None:
    """Check: a burst of 421 must not hold back mail that comes after it."""
    scene.send(scene.mails(120))
    limit = 10 * scene.relay.patience
    ended = wait_until(lambda: scene.provider.counts.sessions >= _BURST or None, timeout_seconds=limit)
    scene.check(bool(ended), "the provider was suspended before the burst was over")
    started = time.monotonic()
    late = scene.send(scene.mails(5))
    names = {name for sent in late for name in sent.accepted}
    arrived = wait_until(lambda: names <= set(scene.delivered()) or None, timeout_seconds=limit)
    scene.check(bool(arrived), "mail that came after the burst was held back with the rest")
    scene.notes.append(f"mail after the burst arrived within {time.monotonic() - started:.1f} s")


def _rotation(scene: Scene) -> None:
    """Check: the password changes between two messages; the next login has the new one."""
    upstream = scene.upstreams[0]
    scene.send(scene.mails(1))
    scene.check(scene.wait_for_delivered(1), "the message before the rotation was not delivered")
    upstream.provider.set_password(upstream.user, "rotated")
    upstream.provider.drop_sessions()
    scene.relay.set_credentials({upstream.host: f"{upstream.user}:rotated"})
    scene.send(scene.mails(1))
    scene.check(scene.wait_for_delivered(2), "the message after the rotation was not delivered")
    refused = [auth for auth in upstream.provider.auths if not auth.accepted]
    scene.check(not refused, f"{len(refused)} logins were refused, although the map was changed in time")
    upstream.provider.set_password(upstream.user, upstream.password, keep_old=True)


def _late_rotation(scene: Scene) -> None:
    """Check: the old password ends before the relay has the new one; mail waits for the swap."""
    upstream = scene.upstreams[0]
    upstream.provider.set_password(upstream.user, "rotated")
    scene.send(scene.mails(2))
    waiting = scene.relay.wait_until_settled()
    scene.check(len(waiting) == 2, f"{len(waiting)} messages wait for the new password, expected 2")
    scene.relay.set_credentials({upstream.host: f"{upstream.user}:rotated"})
    scene.relay.flush()
    scene.check(scene.wait_for_delivered(2), "not delivered after the new password was there")
    upstream.provider.set_password(upstream.user, upstream.password, keep_old=True)


def _outage(scene: Scene) -> None:
    """Check: the provider is away for longer than the back-off; nobody flushes the queue."""
    scene.send(scene.mails(5))
    time.sleep(5)


def _reuse(scene: Scene) -> None:
    """Check: many messages share a few sessions and logins."""
    # For a moment after a reload there are two generations of daemons, each with sessions of its own.
    scene.send(scene.mails(1))
    scene.check(scene.wait_for_delivered(1), "the first message was not delivered")
    time.sleep(2 * scene.relay.patience)
    before = scene.provider.counts.auths
    scene.send(scene.mails(200))
    scene.check(scene.wait_for_delivered(201, timeout_seconds=40), "not all were delivered in time")
    logins = scene.provider.counts.auths - before
    scene.check(logins <= 25, f"{logins} logins for 200 messages over 10 sessions, expected 25 at most")
    scene.notes.append(f"{logins} logins for 200 messages")


def _one_by_one(scene: Scene) -> None:
    """Check: mail that comes one by one finds a session of the one before it."""
    scene.send(scene.mails(1))
    scene.check(scene.wait_for_delivered(1), "the first message was not delivered")
    before = scene.provider.counts.auths
    for number in range(2, 12):
        # Postfix keeps a session of its own accord only while more mail waits.
        time.sleep(_PAUSE_SECONDS)
        scene.send(scene.mails(1))
        scene.check(scene.wait_for_delivered(number), f"message {number} was not delivered")
    logins = scene.provider.counts.auths - before
    scene.check(logins <= 2, f"{logins} logins for 10 messages one by one, expected 2 at most")
    scene.notes.append(f"{logins} logins for 10 messages")


def _slow(scene: Scene) -> None:
    """Check: a provider that takes its time does not slow down who hands in mail."""
    started = time.monotonic()
    scene.send(scene.mails(10))
    taken = time.monotonic() - started
    scene.check(taken < 2 * scene.relay.patience, f"10 messages took {taken:.1f} s to hand in")
    scene.check(scene.wait_for_delivered(10), "not delivered")


CASES = (
    Case("delivered", "A message is delivered over TLS and after AUTH", expect=Expect(delivered=1, auths=1)),
    # -- the credential
    Case(
        "auth-refused",
        "535 at AUTH: mail waits",
        behaviours=behaving(Fault.AUTH_REFUSED),
        expect=Expect(queued=1, offered=0, reason="535"),
    ),
    Case(
        "wrong-password",
        "A wrong password: mail waits",
        credentials=MapState.WRONG_PASSWORD,
        expect=Expect(queued=1, offered=0, reason="535"),
    ),
    Case(
        "map-missing",
        "The password map is missing: mail waits",
        credentials=MapState.MISSING,
        expect=_WAITS_UNTRIED,
    ),
    Case(
        "map-empty",
        "The password map is empty: mail waits, unsent",
        credentials=MapState.EMPTY,
        expect=_WAITS_UNTRIED,
    ),
    Case(
        "map-for-another-host",
        "The password map has another host only: mail waits, unsent",
        credentials=MapState.OTHER_HOST,
        expect=_WAITS_UNTRIED,
    ),
    Case(
        "auth-required",
        "530 at MAIL: mail waits, where Postfix by default bounces",
        behaviours=behaving(Fault.AUTH_REQUIRED),
        expect=Expect(queued=1, delivered=0, reason="430"),
    ),
    _reply(
        "auth-required-enhanced",
        Stage.MAIL,
        "530 5.7.0 Authentication Required",
        "530 5.7.0 at MAIL: mail waits",
        Expect(queued=1, delivered=0, reason="4.7.0"),
    ),
    Case(
        "auth-temporary",
        "454 at AUTH: mail waits",
        behaviours=behaving(Fault.AUTH_TEMPORARY),
        expect=_WAITS,
    ),
    Case(
        "auth-not-offered",
        "AUTH is missing from EHLO: mail waits",
        behaviours=behaving(Fault.NO_AUTH),
        expect=Expect(queued=1, delivered=0, auths=0),
    ),
    Case(
        "password-rotated",
        "A rotated password is used from the next login on",
        act=_rotation,
        needs=frozenset({"map"}),
    ),
    Case(
        "password-rotated-late",
        "The old password ends early: mail waits for the new one",
        act=_late_rotation,
        needs=frozenset({"map"}),
    ),
    # -- the channel
    Case(
        "starttls-stripped",
        "STARTTLS is not offered: mail waits and no credential is sent",
        behaviours=behaving(Fault.NO_STARTTLS),
        expect=_WAITS_UNTRIED,
        needs=frozenset({"starttls"}),
    ),
    _certificate(Certificate.WRONG_NAME, "A certificate for another name"),
    _certificate(Certificate.EXPIRED, "An expired certificate"),
    _certificate(Certificate.UNKNOWN_CA, "A certificate of an unknown authority"),
    _certificate(Certificate.SELF_SIGNED, "A self-signed certificate"),
    # -- throttling and quotas
    Case("throttled", "454 at MAIL: mail waits", behaviours=behaving(Fault.THROTTLED), expect=_WAITS),
    Case("daily-quota", "454 daily quota: mail waits", behaviours=behaving(Fault.DAILY_QUOTA), expect=_WAITS),
    Case(
        "greeting-421",
        "421 instead of a greeting: mail waits",
        behaviours=behaving(Fault.GREETING_421),
        expect=_WAITS,
    ),
    Case("session-421", "421 at MAIL: mail waits", behaviours=behaving(Fault.SESSION_421), expect=_WAITS),
    *(_gmail(stage) for stage in (Stage.MAIL, Stage.RCPT, Stage.END_OF_DATA)),
    Case(
        "burst-of-421",
        "A burst of 421 does not suspend the provider for mail that comes later",
        for_sessions=(_BURST, Behaviour(Fault.GREETING_421)),
        act=_bursts,
    ),
    Case(
        "greylisted",
        "Greylisting: mail waits and is delivered at the next try",
        behaviours=behaving(Fault.GREYLISTED),
        expect=_WAITS,
    ),
    Case(
        "too-many-recipients-at-provider",
        "452 after 30 recipients: the rest waits",
        behaviours=behaving(Fault.TOO_MANY_RECIPIENTS, limit=30),
        parameters={"smtp_destination_recipient_limit": "50"},
        recipients=40,
        expect=Expect(delivered=30, queued=10),
    ),
    # -- sessions
    Case(
        "session-cut-above-reuse-count",
        "A session limit above our reuse count never defers a message",
        behaviours=behaving(Fault.SESSION_CUT, limit=12),
        parameters={"smtp_connection_reuse_count_limit": "10"},
        mails=60,
        expect=Expect(delivered=60, queued=0),
    ),
    Case(
        "session-cut-below-reuse-count",
        "A session limit below our reuse count defers, and loses nothing",
        behaviours=behaving(Fault.SESSION_CUT, limit=5),
        mails=40,
    ),
    Case(
        "connections-reused",
        "200 messages over 10 sessions need no more than 25 logins",
        parameters={
            "smtp_destination_concurrency_limit": "10",
            "smtp_initial_destination_concurrency": "10",
            "smtp_connection_reuse_count_limit": "100",
        },
        act=_reuse,
    ),
    Case(
        "connections-reused-one-by-one",
        "10 messages one after the other need no more than 2 logins",
        act=_one_by_one,
    ),
    Case(
        "connection-dropped",
        "A connection that breaks at once: mail waits",
        behaviours=behaving(Fault.DROP),
        expect=_WAITS,
    ),
    Case(
        "connection-dropped-in-data",
        "A connection that breaks during DATA: mail waits",
        behaviours=behaving(Fault.DROP, stage=Stage.BODY),
        expect=_WAITS,
    ),
    Case(
        "reply-lost",
        "The 250 of the provider is lost: sent again, not lost",
        for_messages=(1, Behaviour(Fault.LOST_REPLY)),
        expect=Expect(queued=1),
        duplicates=1,
    ),
    Case(
        "slow-data",
        "A slow provider does not slow down the intake",
        behaviours=behaving(Fault.SLOW, stage=Stage.END_OF_DATA, seconds=1),
        act=_slow,
    ),
    Case(
        "stalled",
        "A provider that says nothing any more: mail waits",
        behaviours=behaving(Fault.STALL, stage=Stage.END_OF_DATA, seconds=10),
        parameters={"smtp_data_done_timeout": "2s"},
        expect=_WAITS,
        duplicates=1,
    ),
    Case(
        "provider-away",
        "The provider is away for longer than the back-off: delivered without help when it is back",
        behaviours=behaving(Fault.REFUSE),
        parameters={"minimal_backoff_time": "2s", "maximal_backoff_time": "3s", "queue_run_delay": "1s"},
        act=_outage,
        expect=Expect(queued=5, delivered=0),
        flush=False,
    ),
    # -- implicit TLS
    Case(
        "implicit-tls",
        "Port 465: TLS from the first byte, and AUTH",
        setup="implicit-tls",
        expect=Expect(delivered=1, auths=1),
    ),
    Case(
        "implicit-tls-wrong-name",
        "Port 465 with a certificate for another name: mail waits and no credential is sent",
        setup="implicit-tls",
        behaviours=behaving(Fault.CERTIFICATE, certificate=Certificate.WRONG_NAME),
        expect=_WAITS_UNTRIED,
    ),
    # -- final refusals: these are right to bounce
    Case(
        "unknown-recipient",
        "550 5.1.1: the sender is told",
        behaviours=behaving(Fault.UNKNOWN_RECIPIENT),
        expect=Expect(bounced=1, queued=0),
    ),
    Case(
        "sender-not-verified",
        "554 not verified: the sender is told",
        behaviours=behaving(Fault.NOT_VERIFIED),
        expect=Expect(bounced=1, queued=0),
    ),
    Case(
        "too-big-for-provider",
        "552 at the end of DATA: the sender is told",
        behaviours=behaving(Fault.TOO_BIG, limit=10),
        expect=Expect(bounced=1, queued=0),
    ),
)

"""Checks of a relay whose provider is not as it should be: mail waits, and no password gets out."""

from __future__ import annotations

import time
from collections.abc import Sequence

from builder.render.routing import SASL_MAP
from builder.standin.behaviour import Behaviour, Certificate, Fault
from builder.standin.journal import Message
from builder.verify.check import check
from builder.verify.relay import CheckFailed, Relay, require
from builder.verify.world import sample_logins

_RECOVERY_SECONDS = 150
_FLUSH_SECONDS = 10


@check("wrong-certificate")
def wrong_certificate(relay: Relay) -> str:
    """Prove that a provider with another's certificate gets no password; the mail waits."""
    impostor = Behaviour(Fault.CERTIFICATE, certificate=Certificate.WRONG_NAME)
    relay.misbehave(impostor)
    try:
        before = len(relay.provider.auths)

        def no_login() -> None:
            tried = relay.provider.auths[before:]
            require(not tried, f"{len(tried)} logins were sent to the impostor")
            require(not relay.provider.leaks, "a password was sent to the impostor")

        subjects = relay.send()
        reason = relay.wait_deferred(guard=no_login)
        no_login()
    finally:
        relay.provider.clear()
    relay.flush()
    relay.wait_delivered(subjects, timeout_seconds=_RECOVERY_SECONDS)
    return f"deferred ({reason}), no login sent; delivered once the certificate was right"


@check("wrong-password")
def wrong_password(relay: Relay) -> str:
    """Prove that a password that the provider refuses defers mail, and a rotated secret mends it."""
    relay.change_passwords(sample_logins(relay.config))
    subjects = relay.send()
    reason = relay.wait_deferred()
    require(not relay.bounces(), "the provider got a bounce")
    relay.rotate_secrets()
    seconds = _wait_new_login(relay)
    message = _flush_until_delivered(relay, subjects)[0]
    require(not relay.bounces(), "the provider got a bounce")
    in_use = relay.read(f"cat {SASL_MAP}")
    missing = [name for name, login in relay.logins.providers.items() if login.password not in in_use]
    require(not missing, f"the map does not hold the new password of {', '.join(missing)}")
    old = [name for name, login in relay.former[-1].providers.items() if login.password in in_use]
    require(not old, f"the map still holds the old password of {', '.join(old)}")
    return f"deferred ({reason}); new secret in use after {seconds:.0f} s; delivered ({message.reply})"


def _flush_until_delivered(relay: Relay, subjects: Sequence[str]) -> list[Message]:
    """Flush every few seconds until the messages are there; CheckFailed when that takes too long.

    One flush is not enough here: a delivery that began with the old map just before the reload goes on, fails
    and is put off, and the new queue manager has passed it over as still being delivered.
    """
    deadline = time.monotonic() + _RECOVERY_SECONDS
    while True:
        relay.flush()
        try:
            return relay.wait_delivered(subjects, timeout_seconds=_FLUSH_SECONDS)
        except CheckFailed:
            if time.monotonic() > deadline:
                raise


def _wait_new_login(relay: Relay) -> float:
    """Wait until the agent has logged in with the new password and says so; seconds since the rotation."""
    rotated = time.time()

    def is_ready() -> bool:
        fresh = [each for each in relay.provider.auths if each.accepted and each.time >= rotated]
        return bool(fresh) and relay.state() == "ready"

    relay.wait(is_ready, "login with the rotated secret", _RECOVERY_SECONDS, relay.ready_text)
    return time.time() - rotated


CHECKS = (wrong_certificate, wrong_password)

"""The conformance suite on the booted image: every fault that a relay meets, one check each."""

from __future__ import annotations

from builder.conformance import CASES
from builder.conformance.case import Case
from builder.conformance.guest import GuestRelay
from builder.conformance.report import CaseResult, Outcome
from builder.conformance.runner import run_case
from builder.conformance.scene import Upstream
from builder.render.notices import keeps_reports, refuses_null_sender
from builder.render.routing import account, password_keys
from builder.verify.check import Applies, Check
from builder.verify.relay import CheckFailed, Relay

# The image has its own configuration, so only cases that need no other one can be tried on it.
_SETUP = "plain"


def _check(case: Case) -> Check:
    def run(relay: Relay) -> str:
        if relay.suite is None:
            relay.suite = _prepare(relay)
        return _evidence(run_case(relay.suite, _upstreams(relay), case))

    return Check(f"fault: {case.name}", case.title, run, _applies(case))


def _applies(case: Case) -> Applies:
    """Tell by the configuration what `GuestRelay` finds in the image: whether the case can be about it."""
    return lambda config: (
        not (
            ("starttls" in case.needs and config.upstream_tls != "starttls")
            or ("reports" in case.needs and not keeps_reports(config))
            or ("null-refused" in case.needs and not refuses_null_sender(config))
        )
    )


def _prepare(relay: Relay) -> GuestRelay:
    """Take the image over from its agent; it is the last that is done to this instance."""
    guest = GuestRelay(relay.guest)
    sender, recipient = relay.addresses
    guest.sender, guest.recipient_domain = sender, recipient.partition("@")[2]
    return guest.__enter__()


def _upstreams(relay: Relay) -> list[Upstream]:
    """Return every provider of the image; one stand-in plays them all."""
    keys = password_keys(relay.config)
    return [
        Upstream(choice.upstream_host, login.username, login.password, relay.provider, keys[account(choice)])
        for name, choice in relay.config.upstreams()
        for login in [relay.logins.providers[name]]
    ]


def _evidence(result: CaseResult) -> str:
    """Say where the mail was, or raise what was wrong."""
    if result.problems:
        raise CheckFailed("; ".join(result.problems))
    if result.skipped:
        raise CheckFailed(f"not run: {result.skipped}")
    parts = [text for text in (_seen("meanwhile", result.at_fault), _seen("then", result.repaired)) if text]
    return "; ".join([*parts, *result.notes]) or "each answer was as expected"


def _seen(when: str, outcome: Outcome | None) -> str:
    if outcome is None or not outcome.accepted:
        return ""
    numbers = {"delivered": outcome.delivered, "waiting": outcome.queued, "bounced": outcome.bounced}
    shown = ", ".join(f"{count} {name}" for name, count in numbers.items() if count)
    return f"{when}, of {outcome.accepted} recipients: {shown}"


CHECKS = tuple(_check(case) for case in CASES if case.setup == _SETUP)

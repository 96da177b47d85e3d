"""Run cases against a relay: bring about the fault, look, mend it, and look again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from builder.conformance.case import Case, Expect, MapState
from builder.conformance.relay import Relay
from builder.conformance.report import CaseResult, Outcome, Report
from builder.conformance.scene import Scene, Upstream
from builder.errors import BuilderError


def run_cases(
    relay: Relay,
    upstreams: Sequence[Upstream],
    cases: Iterable[Case],
    *,
    progress: Callable[[CaseResult], None] = lambda _result: None,
) -> Report:
    """Run cases one after the other; `progress` is called after each."""
    results = []
    for case in cases:
        results.append(run_case(relay, upstreams, case))
        progress(results[-1])
    return Report(relay.name, relay.postfix_version(), tuple(results))


def run_case(relay: Relay, upstreams: Sequence[Upstream], case: Case) -> CaseResult:
    """Run one case; what it finds wrong is in the result, nothing is raised for it."""
    lacking = case.all_needs - relay.abilities
    if lacking:
        why = f"this relay cannot be given: {', '.join(sorted(lacking))}"
        return CaseResult(case.name, case.title, skipped=why)
    started = time.monotonic()
    scene = Scene(case, relay, upstreams)
    at_fault = repaired = None
    before = _read_parameters(relay, case)
    try:
        _prepare(scene)
        at_fault = _act(scene)
        _check_expectation(scene, at_fault)
        repaired = _repair(scene, before)
        _check_repaired(scene, repaired)
    except BuilderError as error:
        scene.problems.append(error.message)
        _put_back(scene, before)
    return CaseResult(
        case.name,
        case.title,
        problems=tuple(scene.problems),
        seconds=round(time.monotonic() - started, 2),
        at_fault=at_fault,
        repaired=repaired,
        notes=tuple(scene.notes),
    )


def _read_parameters(relay: Relay, case: Case) -> dict[str, str]:
    if not case.parameters:
        return {}
    lines = relay.run(["postconf", *case.parameters]).splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def _prepare(scene: Scene) -> None:
    """Begin with an empty queue, no open session and a provider that has seen nothing."""
    case = scene.case
    scene.relay.empty_queue()
    if _leaves_reports(scene):
        scene.empty_reports()
    for provider in scene.providers:
        provider.clear()
        provider.drop_sessions()
    users: set[str] = set()
    for upstream in scene.upstreams:
        upstream.provider.set_password(upstream.user, upstream.password, keep_old=upstream.user in users)
        users.add(upstream.user)
    if case.parameters:
        scene.relay.run(["postconf", "-e", *(f"{name}={value}" for name, value in case.parameters.items())])
    scene.set_map(case.credentials)
    for provider in scene.providers:
        provider.forget()
    scene.provider.behave(*case.behaviours)
    if case.for_sessions:
        scene.provider.next_sessions(case.for_sessions[0], case.for_sessions[1])
    if case.for_messages:
        scene.provider.next_messages(case.for_messages[0], case.for_messages[1])


def _act(scene: Scene) -> Outcome:
    case = scene.case
    if case.act is not None:
        case.act(scene)
    else:
        scene.send(scene.mails(case.mails, recipients=case.recipients))
    return scene.outcome(bounces_expected=case.expect.bounced)


def _check_expectation(scene: Scene, found: Outcome) -> None:
    expect = scene.case.expect
    for reply in found.client:
        scene.check(reply.startswith(expect.client), f"the client got `{reply}`, expected `{expect.client}`")
    for name in ("delivered", "queued", "bounced", "offered", "auths"):
        wanted, seen = getattr(expect, name), getattr(found, name)
        scene.check(wanted is None or wanted == seen, f"{name} is {seen}, expected {wanted}")
    _check_sessions(scene, expect)
    _check_reports(scene, expect)
    for reason in found.reasons if expect.reason else ():
        scene.check(
            expect.reason in reason, f"a message waits because of `{reason}`, expected `{expect.reason}`"
        )
    _check_always(scene, found)


def _leaves_reports(scene: Scene) -> bool:
    case = scene.case
    return "reports" in scene.relay.abilities and bool(case.expect.bounced or "reports" in case.needs)


def _check_reports(scene: Scene, expect: Expect) -> None:
    """Check that what was given up was reported: else it is lost, not bounced."""
    if expect.bounced and _leaves_reports(scene):
        kept = scene.kept_reports()
        for name in sorted(scene.given_up()):
            scene.check(
                f"Final-Recipient: rfc822; {name}" in kept, f"no report says that {name} was given up"
            )


def _check_sessions(scene: Scene, expect: Expect) -> None:
    sessions = sum(provider.counts.sessions for provider in scene.providers)
    wanted = expect.sessions
    scene.check(wanted is None or wanted == sessions, f"sessions is {sessions}, expected {wanted}")


def _check_always(scene: Scene, found: Outcome) -> None:
    """Check what holds in every case: nothing lost, no credential to an impostor."""
    scene.check(
        found.bounced <= scene.case.expect.bounced,
        f"of {found.accepted} accepted, {found.delivered} were delivered and {found.queued} wait",
    )
    scene.check(found.leaks == 0, f"{found.leaks} credentials were sent to someone who must not have them")
    for provider in scene.providers:
        for error in provider.errors:
            scene.problems.append(f"the provider stand-in failed: {error!r}")


def _repair(scene: Scene, before: dict[str, str]) -> Outcome:
    """End the fault and let the queue drain."""
    case = scene.case
    _put_back(scene, before, reload=case.flush)
    if case.flush:
        scene.set_map(MapState.GOOD)
    _drain(scene)
    return scene.outcome(bounces_expected=case.expect.bounced)


def _drain(scene: Scene) -> None:
    """Wait for the deliveries, flushing again: a flush while the queue manager restarts is lost."""
    case = scene.case
    deadline = time.monotonic() + case.repair_seconds * scene.relay.patience
    wanted = len(scene.accepted()) - case.expect.bounced
    while time.monotonic() < deadline:
        if case.flush:
            scene.relay.flush()
        if scene.wait_for_delivered(wanted, timeout_seconds=2):
            return


def _put_back(scene: Scene, before: dict[str, str], *, reload: bool = True) -> None:
    for provider in scene.providers:
        provider.clear()
    if before and reload:
        scene.relay.set_parameters(before)


def _check_repaired(scene: Scene, found: Outcome) -> None:
    bounced = scene.case.expect.bounced
    wanted = found.accepted - bounced
    scene.check(
        found.delivered == wanted,
        f"after the repair {found.delivered} of {wanted} are delivered, {found.queued} wait: {found.reasons}",
    )
    scene.check(
        found.duplicates <= scene.case.duplicates,
        f"{found.duplicates} were delivered more than once, at most {scene.case.duplicates} allowed",
    )
    _check_always(scene, found)

"""`relayctl drain`: take no more mail, deliver what is there, and say when nothing is left."""

from __future__ import annotations

import argparse
import time
from typing import Any

from relay_agent import mailqueue
from relay_agent.ctl.context import Context, span
from relay_agent.submission import read_plan
from relay_agent.trouble import Trouble

_EXAMPLE = "examples: relayctl drain --timeout 600, then `relayctl drain --cancel` to take mail again"
_LOOK_SECONDS = 2.0
# postqueue misses a message that goes from `deferred` to `active` while it looks, as after the flush; and
# what a client handed in last may still be on its way to the disk.
_LOOKS = 2


def add_parser(commands: Any) -> None:
    """Add the command `drain`."""
    parser = commands.add_parser(
        "drain", help="take no more mail and wait until the queue is empty", epilog=_EXAMPLE
    )
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="SECONDS", help="how long to wait (300)"
    )
    parser.add_argument("--cancel", action="store_true", help="take mail again")
    parser.set_defaults(run=run)


def run(context: Context, arguments: argparse.Namespace) -> int:
    """Drain; 0 when the queue is empty, 1 when something is left."""
    if arguments.cancel:
        context.places.draining.unlink(missing_ok=True)
        # Raises when there is no agent that could.
        context.status()
        context.out.line("The agent opens port 25 again")
        return 0
    # The agent sees the file and keeps the port closed; closing it here works without the agent too.
    context.places.draining.touch(mode=0o600)
    context.postfix.close_port()
    plan = read_plan(context.places)
    if plan is not None:
        context.postfix.close_service(plan.service)
    context.out.line("Port 25 is closed; what is in the queue is tried once more now")
    context.postfix.flush()
    left = _wait(context, arguments.timeout)
    if left.total == 0:
        context.out.line("The queue is empty")
        return 0
    ages = left.ages(time.time())
    for queue, count in left.messages.items():
        if count:
            context.out.line(f"{count} {queue}, oldest {span(ages[queue])}")
    for reason, count in left.reasons.most_common():
        context.out.line(f"{count} recipients wait: {reason}")
    context.out.line("They stay in the queue and are tried again; do not delete this machine's disk")
    return 1


def _wait(context: Context, timeout_seconds: float) -> mailqueue.QueueSummary:
    """Wait until nothing is left, or so long, and return what is."""
    deadline = time.monotonic() + timeout_seconds
    shown, empty = -1, 0
    while True:
        try:
            summary = mailqueue.summarize(mailqueue.read(context.postfix))
        except Trouble:
            # A busy Postfix answers late; that is no reason to stop waiting.
            if time.monotonic() >= deadline:
                raise
            context.sleep(_LOOK_SECONDS)
            continue
        if summary.total != shown:
            shown = summary.total
            context.out.line(f"{shown} messages left")
        # Held messages wait for a person, not for us.
        waiting = summary.total - summary.messages["hold"]
        empty = 0 if waiting else empty + 1
        if empty == _LOOKS or (not empty and time.monotonic() >= deadline):
            return summary
        context.sleep(_LOOK_SECONDS)

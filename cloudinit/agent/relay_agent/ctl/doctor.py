"""`relayctl doctor`: the troubleshooting tree as a program, with evidence for each step."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any, Callable, Iterator, Sequence

from relay_agent.ctl import checks_mail, checks_relay, checks_upstream
from relay_agent.ctl.context import Context
from relay_agent.ctl.findings import Finding, of_trouble
from relay_agent.trouble import Trouble, unexpected

_EXAMPLE = "example: relayctl doctor --offline"
_SIGNS = {"ok": "ok     ", "warning": "WARNING", "wrong": "WRONG  "}

Check = Callable[[Context], "Iterator[Finding]"]

# In the order in which mail passes them. The tree it comes from asked the queue first and took an empty one
# for success; but a bounced message has left the queue too, so the log is asked as well.
LOCAL: Sequence[Check] = (
    checks_relay.agent,
    checks_relay.postfix,
    checks_relay.port,
    checks_relay.policy,
    checks_relay.dkim,
    checks_relay.disk,
    checks_relay.clock,
    checks_upstream.credential_map,
)
REMOTE: Sequence[Check] = (checks_upstream.provider,)
MAIL: Sequence[Check] = (checks_mail.queue, checks_mail.log)


def add_parser(commands: Any) -> None:
    """Add the command `doctor`."""
    parser = commands.add_parser("doctor", help="why mail does not arrive, step by step", epilog=_EXAMPLE)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--offline", action="store_true", help="do not connect to the provider")
    parser.set_defaults(run=run)


def run(context: Context, arguments: argparse.Namespace) -> int:
    """Go through every step; 0 when nothing is wrong, 1 otherwise."""
    found = []
    for check in (*LOCAL, *(() if arguments.offline else REMOTE), *MAIL):
        for finding in _all(check, context):
            found.append(finding)
            if not arguments.json:
                _show(context, finding)
    is_wrong = any(finding.state == "wrong" for finding in found)
    if arguments.json:
        context.out.json({"ok": not is_wrong, "steps": [asdict(finding) for finding in found]})
    elif not is_wrong:
        context.out.line("Nothing is wrong here; `relayctl send-test TO` follows one message")
    return 1 if is_wrong else 0


def _all(check: Check, context: Context) -> Iterator[Finding]:
    """Go on with the next step whatever a step meets."""
    try:
        yield from check(context)
    except Trouble as trouble:
        yield of_trouble(check.__name__.replace("_", " "), trouble)
    except PermissionError:
        raise
    except Exception as error:  # noqa: BLE001 - a step that breaks is itself a finding
        name = check.__name__.replace("_", " ")
        yield of_trouble(name, unexpected(name, error))


def _show(context: Context, finding: Finding) -> None:
    context.out.line(f"{_SIGNS[finding.state]}  {finding.step}: {finding.evidence}")
    if finding.mend and finding.state != "ok":
        context.out.line(f"         mend: {finding.mend}")

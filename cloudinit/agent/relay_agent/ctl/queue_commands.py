"""`relayctl queue`: list what waits, show, retry, hold, release or delete it."""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import asdict
from typing import Any

from relay_agent import mailqueue, programs
from relay_agent.ctl.context import Context, span
from relay_agent.maillog import reason_of
from relay_agent.mailqueue import Waiting
from relay_agent.trouble import Trouble

_EXAMPLE = """\
examples:
  relayctl queue list --reason throttled
  relayctl queue show 4bXyZ13Jm7z9rQ
  relayctl queue retry               try everything once, now
  relayctl queue delete 4bXyZ13Jm7z9rQ
"""
_QUEUE_ID = re.compile(r"[0-9A-Za-z]{5,25}")
_ALL = "ALL"


def add_parser(commands: Any) -> None:
    """Add the command `queue` with what can be done to the queue."""
    parser = commands.add_parser(
        "queue",
        help="list what waits, show, retry, hold, release or delete it",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=list_queue, json=False, reason=None, most=50)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listing = actions.add_parser("list", help="what waits, oldest first")
    listing.add_argument("--json", action="store_true", help="all of it as one JSON document")
    listing.add_argument("--reason", help="only what waits for this reason, such as throttled")
    listing.add_argument("--most", type=int, default=50, help="how many lines (50)")
    listing.set_defaults(run=list_queue)
    show = actions.add_parser("show", help="envelope and headers of one message")
    show.add_argument("--body", action="store_true", help="the body too")
    show.set_defaults(run=show_message)
    retry = actions.add_parser("retry", help="try one message, or all of them, once now")
    retry.set_defaults(run=retry_message)
    hold = actions.add_parser("hold", help="keep one message (or ALL) until it is released")
    hold.set_defaults(run=change, option="-h", verb="hold")
    release = actions.add_parser("release", help="let one held message (or ALL) go on")
    release.set_defaults(run=change, option="-H", verb="release")
    delete = actions.add_parser("delete", help="delete one message (or ALL) for ever")
    delete.set_defaults(run=change, option="-d", verb="delete")
    for action in (show, hold, release, delete):
        action.add_argument("id", metavar="ID", type=_queue_id)
    retry.add_argument("id", metavar="ID", nargs="?", type=_queue_id)
    for action in (hold, release, delete):
        action.add_argument("--yes", action="store_true", help="do not ask (not for delete ALL)")


def _queue_id(text: str) -> str:
    if text == _ALL or _QUEUE_ID.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError(f"`{text}` is not a queue ID such as 4bXyZ13Jm7z9rQ")


def list_queue(context: Context, arguments: argparse.Namespace) -> int:
    """Show what waits, oldest first."""
    found = sorted(mailqueue.read(context.postfix), key=lambda message: message.arrived)
    if arguments.reason:
        found = [item for item in found if arguments.reason in map(reason_of, item.why)]
    if arguments.json:
        context.out.json([asdict(item) for item in found])
        return 0
    if not found:
        context.out.line("Nothing waits. That a message has left the queue does not say that it arrived:")
        context.out.line("bounced messages leave it too; `relayctl doctor` looks for those.")
        return 0
    for item in found[: arguments.most]:
        context.out.line(_line(item))
    if len(found) > arguments.most:
        context.out.line(f"… and {len(found) - arguments.most} more (--most)")
    return 0


def _line(item: Waiting) -> str:
    age = span(time.time() - item.arrived)
    more = f" and {len(item.recipients) - 1} more" if len(item.recipients) > 1 else ""
    to = (item.recipients[0] if item.recipients else "?") + more
    why = f"  {reason_of(item.why[0])}: {item.why[0]}" if item.why else ""
    return f"{item.queue_id:<15} {item.queue:<8} {age:>7} {item.size:>9}  {item.sender or '<>'} > {to}{why}"


def show_message(context: Context, arguments: argparse.Namespace) -> int:
    """Show one message."""
    if arguments.id == _ALL:
        raise Trouble("usage", "`show` takes one queue ID")
    options = "-eh" if not arguments.body else "-ehb"
    ended = programs.run(context.postfix.command("postcat", options, "-q", arguments.id))
    if ended.returncode != 0:
        raise _failed(f"show {arguments.id}", ended)
    context.out.line(ended.stdout.rstrip("\n"))
    return 0


def retry_message(context: Context, arguments: argparse.Namespace) -> int:
    """Try one message, or all, once now."""
    if arguments.id in (None, _ALL):
        command = context.postfix.command("postqueue", "-f")
    else:
        command = context.postfix.command("postqueue", "-i", arguments.id)
    ended = programs.run(command)
    if ended.returncode != 0:
        raise _failed("retry", ended)
    context.out.line("It is tried now; `relayctl queue` shows what still waits and why")
    return 0


def change(context: Context, arguments: argparse.Namespace) -> int:
    """Hold, release or delete after the operator has confirmed it."""
    if not _confirmed(context, arguments):
        context.out.line("Nothing was changed")
        return 1
    ended = programs.run(context.postfix.command("postsuper", arguments.option, arguments.id))
    if ended.returncode != 0:
        raise _failed(f"{arguments.verb} {arguments.id}", ended)
    context.out.line(ended.last_line.replace("postsuper: ", ""))
    return 0


def _confirmed(context: Context, arguments: argparse.Namespace) -> bool:
    """Ask before what cannot be undone, or what touches everything; deleting all is never done unasked."""
    verb, queue_id = arguments.verb, arguments.id
    if verb == "delete" and queue_id == _ALL:
        count = mailqueue.summarize(mailqueue.read(context.postfix)).total
        words = f"delete {count} messages"
        context.out.line(f"This destroys {count} messages of your users; nobody is told.")
        return context.ask(f"Type `{words}` to do it: ").strip() == words
    if arguments.yes or (verb != "delete" and queue_id != _ALL):
        return True
    what = "all messages" if queue_id == _ALL else _named(context, queue_id)
    return context.ask(f"{verb} {what}? [y/N] ").strip().lower() in ("y", "yes")


def _named(context: Context, queue_id: str) -> str:
    for item in mailqueue.read(context.postfix):
        if item.queue_id == queue_id:
            return f"{queue_id} ({item.sender or '<>'} to {', '.join(item.recipients[:3])})"
    raise Trouble("no-message", f"`{queue_id}` is not in the queue", hint="`relayctl queue` lists what is")


def _failed(what: str, ended: programs.Ended) -> Trouble:
    return Trouble("postfix-refused", f"Postfix did not {what}: {ended.last_line}")

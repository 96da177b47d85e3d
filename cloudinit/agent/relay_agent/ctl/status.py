"""`relayctl status`: what the relay does now."""

from __future__ import annotations

import argparse
import time
from typing import Any

from relay_agent.ctl.context import Context, moment, span
from relay_agent.ctl.policy import has_firewall, read_policy, show_policy
from relay_agent.firewall import read_sets

_EXAMPLE = "example: relayctl status --json | jq .queue.total"
# It writes every five seconds.
_OLD_SECONDS = 20.0


def add_parser(commands: Any) -> None:
    """Add the command `status`."""
    parser = commands.add_parser("status", help="what the relay does, and since when", epilog=_EXAMPLE)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.set_defaults(run=run)


def run(context: Context, arguments: argparse.Namespace) -> int:
    """Show the status. Errors: Trouble `agent-silent`."""
    status = context.status()
    status["policy"] = read_policy(context)
    status["has_firewall"] = has_firewall(context)
    status["firewall"] = read_sets() if status["has_firewall"] else None
    if arguments.json:
        context.out.json(status)
        return 0
    context.out.fields(
        [
            *_state(status),
            *_upstreams(status),
            *_queue(status),
            *_traffic(status),
            *_rate(status),
            *_submission(status),
            *_dkim(status),
            *_room(status),
            *_loops(status),
            *show_policy(status["policy"], status["firewall"], has_firewall=status["has_firewall"]),
        ]
    )
    return 0


def _state(status: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("relay", f"{status['message']}, for {span(time.time() - status['since'])}")]
    age = time.time() - status["updated_at"]
    if age > _OLD_SECONDS:
        lines.append(("", f"as of {span(age)} ago: the agent waits for something that does not answer"))
    reason = status.get("reason")
    if reason and reason.get("hint"):
        lines.append(("", f"hint: {reason['hint']}"))
    return lines


def _upstreams(status: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for item in status["upstreams"]:
        lines.append(("provider", f"{status['preset']}: {item['host']}:{item['port']} ({item['name']})"))
        if item["version_id"]:
            made = item["version_created"]
            age = f", made {span(time.time() - made)} ago" if made else ""
            proven = f", proven {moment(item['proven_at'])}" if item["proven_at"] else ""
            text = f"{item['state']}, version {item['version_id']}{age}{proven}"
        else:
            text = f"none from secret `{item['secret']}`"
        lines.append(("credential", text))
        if item["refused_version"]:
            lines.append(("", f"version {item['refused_version']} is refused"))
        if item["reason"]:
            lines.append(("", item["reason"]["message"]))
            if item["reason"].get("hint"):
                lines.append(("", f"hint: {item['reason']['hint']}"))
    return lines


def _queue(status: dict[str, Any]) -> list[tuple[str, str]]:
    queue = status["queue"]
    parts = []
    for name, count in queue["messages"].items():
        oldest = f" (oldest {span(queue['oldest_seconds'][name])})" if count else ""
        parts.append(f"{count} {name}{oldest}")
    lines = [("queue", ", ".join(parts))]
    if queue["reasons"]:
        reasons = sorted(queue["reasons"].items(), key=lambda item: -item[1])
        lines.append(("", "waits for: " + ", ".join(f"{name} {count}" for name, count in reasons)))
    return lines


def _traffic(status: dict[str, Any]) -> list[tuple[str, str]]:
    traffic, now = status["traffic"], time.time()
    lines = [
        ("rate", f"in {traffic['rate_in']['60']:.1f}/s, out {traffic['rate_out']['60']:.1f}/s (last minute)"),
        ("since start", _counts(traffic)),
    ]
    last = traffic["last_delivered"]
    if last:
        lines.append(("delivered", f"{span(now - last['at'])} ago through {last['relay']}: {last['reply']}"))
    name = "last errors"
    for reason, error in sorted(traffic["last_errors"].items(), key=lambda item: -item[1]["at"]):
        text = f"{reason}: {error['result']} {span(now - error['at'])} ago: {error['text']}"
        lines.append((name, text))
        name = ""
    return lines


def _counts(traffic: dict[str, Any]) -> str:
    counted = [f"{traffic['accepted']} accepted"]
    counted += [f"{count} {result}" for result, count in sorted(traffic["deliveries"].items())]
    counted.append(f"{traffic['rejected_clients']} commands of clients refused")
    counted.append(f"{traffic['auth_failures']} logins refused")
    return ", ".join(counted)


def _rate(status: dict[str, Any]) -> list[tuple[str, str]]:
    rate = status.get("rate")
    if not rate:
        return []
    own, account = rate["own_per_second"], rate["account_per_second"]
    if not rate["paced"]:
        text = "NOT kept: nothing is slowed"
    elif own is None:
        text = "not known: nothing is slowed"
    else:
        text = f"{own:.3g}/s of the account's {account:g}/s, {rate['relays']} relays ({rate['share']})"
    reasons = [rate[key]["message"] for key in ("gate_reason", "reason") if rate[key]]
    return [("sending rate", text), *(("", reason) for reason in reasons)]


def _submission(status: dict[str, Any]) -> list[tuple[str, str]]:
    port = status.get("submission")
    if not port:
        return [("submission", "no port for clients that log in")]
    state = "open" if port["open"] else "closed"
    lines = [("submission", f"port {port['port']} {state}, {port['users']} users from `{port['secret']}`")]
    if port["reason"]:
        lines.append(("", port["reason"]["message"]))
    return lines


def _dkim(status: dict[str, Any]) -> list[tuple[str, str]]:
    signer = status.get("dkim")
    if not signer:
        return []
    domains = ", ".join(key["domain"] for key in signer["keys"])
    lines = [("DKIM", f"mail of {domains} is {'signed' if signer['signing'] else 'NOT signed'}")]
    if signer["reason"]:
        lines.append(("", signer["reason"]["message"]))
    return lines


def _room(status: dict[str, Any]) -> list[tuple[str, str]]:
    room = status.get("room")
    if not room:
        return []
    files = f", {room['free_files']} of {room['files']} files" if room["files"] else ""
    text = f"{room['free_bytes'] // 2**20} of {room['size_bytes'] // 2**20} MiB{files} free for the queue"
    return [("room", text)]


def _loops(status: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for name, found in sorted(status.get("loops", {}).items()):
        ago = span(time.time() - found["at"])
        text = f"loop {name} failed {found['failures']} times, last {ago} ago: {found['reason']['message']}"
        lines.append(("agent", text))
    return lines

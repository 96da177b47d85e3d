"""/metrics in OpenMetrics text.

Own code instead of `python3-prometheus-client`: it only formats numbers that are counted anyway, and the
package (with python3-decorator) would cost two packages at each bake and an import at each boot; releases
from 20.04 on have versions 0.7 to 0.20 of it, whose output differs. A test lints the page with promtool.
Format: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, Iterator, Mapping, Sequence, Tuple

from relay_agent import logs, loops
from relay_agent.board import ACCEPTING, STATES, Board
from relay_agent.traffic import DELAYS

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
Sample = Tuple[str, Mapping[str, object], float]

_SUFFIX = {"counter": "_total", "info": "_info"}
# fmt: off
FAMILIES = {
    "relay_agent": ("info", "Version of the agent and preset of the image."),
    "relay_state": ("stateset", "What the relay is: exactly one of them is 1."),
    "relay_accepting": ("gauge", "1 while port 25 is open and mail is taken."),
    "relay_spool_free_bytes": ("gauge", "Free for the queue."),
    "relay_spool_size_bytes": ("gauge", "Size of the file system that holds the queue."),
    "relay_spool_free_inodes": ("gauge", "Files that can still be made in the queue."),
    "relay_spool_inodes": ("gauge", "Files that its file system can hold; 0 where that is not fixed."),
    "relay_ready_after_seconds": ("gauge", "From the agent's start to ready."),
    "relay_log_lines": ("counter", "Lines of the mail log that were read."),
    "relay_log_restarts": ("counter", "How often reading the mail log began anew."),
    "relay_loop_failures": ("counter", "Errors that a loop of the agent did not expect; it goes on."),
    "relay_send_rate_limit_messages_per_second": ("gauge", "Rate: account, own share, and in force now."),
    "relay_send_rate_stale": ("gauge", "1 while the rate cannot be found out and the last one is kept."),
    "relay_send_rate_paced": ("gauge", "1 while messages wait for their turn at that rate."),
    "relay_submission_open": ("gauge", "1 while the port for clients that log in is open."),
    "relay_submission_users": ("gauge", "Users that may log in there."),
    "relay_messages_accepted": ("counter", "Messages taken into the queue; sender is null for notices."),
    "relay_deliveries": ("counter", "Tries for one recipient, by result, reply class and reason."),
    "relay_delivery_delay_seconds": ("histogram", "From acceptance to delivery."),
    "relay_deliveries_reusing_connection": ("counter", "Deliveries over a connection that was kept open."),
    "relay_tls_connections": ("counter", "TLS connections to the provider, by trust, new or reused."),
    "relay_auth_failures": ("counter", "Logins that the provider refused during delivery."),
    "relay_messages_expired": ("counter", "Messages that were given up after the queue lifetime."),
    "relay_non_delivery_notices": ("counter", "Notices about messages that could not be delivered."),
    "relay_clients_rejected": ("counter", "Commands of clients that were refused, by reply code."),
    "relay_postfix_problems": ("counter", "Lines of Postfix with a severity."),
    "relay_queue_messages": ("gauge", "Messages in the queue."),
    "relay_queue_oldest_age_seconds": ("gauge", "Age of the oldest message."),
    "relay_queue_size_bytes": ("gauge", "Size of all messages in the queue."),
    "relay_queue_waiting_recipients": ("gauge", "Recipients that wait after a try, by reason."),
    "relay_queue_read_age_seconds": ("gauge", "How old the figures about the queue are."),
    "relay_credential": ("info", "Version of the credential in use."),
    "relay_credential_age_seconds": ("gauge", "Since the version in use was made."),
    "relay_credential_proven": ("gauge", "1 while the provider accepts the credential."),
    "relay_credential_version_refused": ("gauge", "1 while a newer version is refused."),
    "relay_credential_rotations": ("counter", "New versions that were put in use."),
    "relay_credential_refused": ("counter", "Versions that the provider, or their form, did not allow."),
    "relay_dkim_signing": ("gauge", "1 while mail of the domain is signed with DKIM."),
    "relay_credential_failed_checks": ("counter", "Checks of the secret that failed, for any reason."),
}
# fmt: on


def render(board: Board) -> str:
    """Return the whole page; a family without samples is named all the same."""
    counted = board.traffic.frozen()
    found: defaultdict[str, list[str]] = defaultdict(list)
    values = board.values()
    parts = (_relay(board), _mail(counted), _queue(board), _credentials(values["upstreams"]), _dkim(values))
    for part in parts:
        for family, labels, value in part:
            suffix = _SUFFIX.get(FAMILIES[family][0], "")
            found[family].append(f"{family}{suffix}{_labels(labels)} {_number(value)}")
    found["relay_delivery_delay_seconds"] = _delays(counted)
    lines = []
    for family, (kind, text) in FAMILIES.items():
        lines.append(f"# TYPE {family} {kind}")
        lines += [f"# UNIT {family} {unit}" for unit in ("seconds", "bytes") if family.endswith("_" + unit)]
        lines.append(f"# HELP {family} {text}")
        lines += found[family]
    return logs.clean("\n".join([*lines, "# EOF", ""]))


def _labels(labels: Mapping[str, object]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(str(value))}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _delays(counted: dict[str, Any]) -> list[str]:
    name = "relay_delivery_delay_seconds"
    lines, running = [], 0
    for number, count in enumerate(counted["delay_buckets"]):
        running += count
        edge = str(DELAYS[number]) if number < len(DELAYS) else "+Inf"
        lines.append(f'{name}_bucket{{le="{edge}"}} {running}')
    return [*lines, f"{name}_count {running}", f"{name}_sum {_number(counted['delay_sum'])}"]


def _relay(board: Board) -> Iterator[Sample]:
    values = board.values()
    yield "relay_agent", {"version": values["agent"], "preset": values["preset"] or ""}, 1
    for name in STATES:
        yield "relay_state", {"relay_state": name}, name == values["state"]
    yield "relay_accepting", {}, values["state"] in ACCEPTING
    if values["ready_after_seconds"] is not None:
        yield "relay_ready_after_seconds", {}, values["ready_after_seconds"]
    yield from _spool(values.get("room"))
    yield "relay_log_lines", {}, board.log_lines
    yield "relay_log_restarts", {}, board.log_restarts
    for name, count in loops.failures().items():
        yield "relay_loop_failures", {"loop": name}, count
    yield from _rate(values.get("rate"))
    if values.get("submission") is not None:
        yield "relay_submission_open", {}, values["submission"]["open"]
        yield "relay_submission_users", {}, values["submission"]["users"]


def _spool(room: Mapping[str, Any] | None) -> Iterator[Sample]:
    if room is not None:
        yield "relay_spool_free_bytes", {}, room["free_bytes"]
        yield "relay_spool_size_bytes", {}, room["size_bytes"]
        yield "relay_spool_free_inodes", {}, room["free_files"]
        yield "relay_spool_inodes", {}, room["files"]


def _rate(rate: Mapping[str, Any] | None) -> Iterator[Sample]:
    if rate is None:
        return
    for scope in ("account", "own", "in_force"):
        if rate[f"{scope}_per_second"] is not None:
            labels = {"scope": scope}
            yield "relay_send_rate_limit_messages_per_second", labels, rate[f"{scope}_per_second"]
    yield "relay_send_rate_stale", {}, rate["reason"] is not None
    yield "relay_send_rate_paced", {}, rate["paced"]


def _mail(counted: dict[str, Any]) -> Iterator[Sample]:
    for sender in ("address", "null"):
        yield "relay_messages_accepted", {"sender": sender}, counted["accepted"].get(sender, 0)
    for (result, reply, reason), count in sorted(counted["deliveries"].items()):
        yield "relay_deliveries", {"result": result, "reply_class": reply, "reason": reason}, count
    yield "relay_deliveries_reusing_connection", {}, counted["reused_deliveries"]
    for (trust, use), count in sorted(counted["tls"].items()):
        yield "relay_tls_connections", {"trust": trust, "use": use}, count
    yield "relay_auth_failures", {}, counted["auth_failures"]
    yield "relay_messages_expired", {}, counted["expired"]
    yield "relay_non_delivery_notices", {}, counted["notices"]
    for code, count in sorted(counted["rejected"].items()):
        yield "relay_clients_rejected", {"code": code}, count
    for (program, severity), count in sorted(counted["problems"].items()):
        yield "relay_postfix_problems", {"program": program, "severity": severity}, count


def _queue(board: Board) -> Iterator[Sample]:
    queue, now = board.queue, time.time()
    for name, count in queue.messages.items():
        yield "relay_queue_messages", {"queue": name}, count
    for name, age in queue.ages(now).items():
        yield "relay_queue_oldest_age_seconds", {"queue": name}, round(age, 1)
    yield "relay_queue_size_bytes", {}, queue.size
    for reason, count in sorted(queue.reasons.items()):
        yield "relay_queue_waiting_recipients", {"reason": reason}, count
    if board.queue_read_at:
        yield "relay_queue_read_age_seconds", {}, round(now - board.queue_read_at, 1)


def _dkim(values: Mapping[str, Any]) -> Iterator[Sample]:
    signer = values.get("dkim") or {"keys": ()}
    for key in signer["keys"]:
        yield "relay_dkim_signing", {"domain": key["domain"]}, signer["signing"]


def _credentials(upstreams: Sequence[dict[str, Any]]) -> Iterator[Sample]:
    now = time.time()
    for item in upstreams:
        name = {"upstream": item["name"]}
        if item["version_id"]:
            yield "relay_credential", {**name, "version_id": item["version_id"]}, 1
        if item["version_created"]:
            yield "relay_credential_age_seconds", name, round(now - item["version_created"], 1)
        yield "relay_credential_proven", name, item["state"] == "proven"
        yield "relay_credential_version_refused", name, item["refused_version"] is not None
        for key in ("rotations", "refused", "failed_checks"):
            yield f"relay_credential_{key}", name, item["counts"][key]

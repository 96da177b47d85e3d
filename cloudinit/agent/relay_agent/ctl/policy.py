"""Who may send what, as Postfix and the firewall have it now: for `relayctl status`."""

from __future__ import annotations

import re
from typing import Any

from relay_agent.ctl.context import Context
from relay_agent.firewall import read_plan

_PARAMETERS = (
    "mynetworks",
    "message_size_limit",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
    "smtpd_restriction_classes",
    "transport_maps",
    "smtpd_client_event_limit_exceptions",
    "smtp_tls_security_level",
    "relayhost",
)
_LIMITS = {
    "connection_count": "open at once",
    "connection_rate": "connections a minute",
    "message_rate": "messages a minute",
    "recipient_rate": "recipients a minute",
}
_TABLE = re.compile(r"(?:check_(\w+)_access )?(?:regexp|cidr|texthash|inline|pcre):(/[\w./-]+)")
_MOST_ROWS = 8
NO_FIREWALL = "this image has none (`firewall: {enabled: false}` in relay.yaml)"


def read_policy(context: Context) -> dict[str, Any]:
    """Return Postfix's parameters by name, and under `rules` the lines of each access table by its path."""
    found: dict[str, Any] = {name: context.parameter(name) for name in _PARAMETERS}
    for name in _LIMITS:
        found[f"smtpd_client_{name}_limit"] = context.parameter(f"smtpd_client_{name}_limit")
    texts = [found["smtpd_recipient_restrictions"], found["transport_maps"]]
    for name in re.findall(r"[\w-]+", found["smtpd_restriction_classes"]):
        found[name] = context.parameter(name)
        texts.append(found[name])
    found["rules"] = {path: _rows(context, path) for _, path in _TABLE.findall(", ".join(texts))}
    return found


def _rows(context: Context, path: str) -> list[str]:
    try:
        lines = (context.places.root / path.lstrip("/")).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        return [f"cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def has_firewall(context: Context) -> bool:
    """Say whether the image was baked with a firewall."""
    return read_plan(context.places).enabled


def show_policy(
    policy: dict[str, Any], sets: dict[str, list[str]] | None, *, has_firewall: bool = True
) -> list[tuple[str, str]]:
    """Return names and values for the screen."""
    lines = [
        ("may relay", policy["mynetworks"]),
        (
            "policy",
            f"{policy['smtpd_relay_restrictions']}; messages up to {policy['message_size_limit']} bytes",
        ),
        *_show_rules(policy),
        ("client limits", _show_limits(policy)),
        ("TLS", f"{policy['smtp_tls_security_level']} to {policy['relayhost']}"),
    ]
    if not has_firewall:
        return [*lines, ("firewall", f"{NO_FIREWALL}: every client reaches every port")]
    if sets is None:
        return [*lines, ("firewall", "no table `inet relay`: every client reaches every port")]
    names = sorted(name for name, members in sets.items() if members)
    return [*lines, *(("firewall", f"{name}: {', '.join(sets[name])}") for name in names)]


def _show_rules(policy: dict[str, Any]) -> list[tuple[str, str]]:
    if not policy["rules"]:
        return [("access rules", "none: every sender and recipient")]
    lines = []
    for path, rows in policy["rules"].items():
        lines.append(("access rules", f"{path}, {len(rows)} rules, the first that matches counts"))
        lines += [("", f"  {row}") for row in rows[:_MOST_ROWS]]
        if len(rows) > _MOST_ROWS:
            lines.append(("", f"  … and {len(rows) - _MOST_ROWS} more"))
    return lines


def _show_limits(policy: dict[str, Any]) -> str:
    values = {text: policy[f"smtpd_client_{name}_limit"] for name, text in _LIMITS.items()}
    set_ones = [f"{value} {text}" for text, value in values.items() if value not in ("", "0")]
    exempt = policy["smtpd_client_event_limit_exceptions"]
    return (", ".join(set_ones) or "none") + (f"; not for {exempt}" if exempt and set_ones else "")

"""Render a warm-up plan: what a provider's part of the mail is on each day, and the timer that sets it."""

from __future__ import annotations

import json
from collections.abc import Callable

from builder import assets
from builder.config.model import RelayConfig

_PROGRAM = "usr/lib/relay/bin/relay-warm-up"
_SERVICE = f"""\
[Unit]
Description=Give a provider that warms up its part of the mail for today
After=postfix.service

[Service]
Type=oneshot
ExecStart=/{_PROGRAM}
ProtectHome=yes
PrivateTmp=yes
NoNewPrivileges=yes
"""
_TIMER = """\
[Unit]
Description=Follow the warm-up plan, day by day

[Timer]
OnBootSec=2min
OnCalendar=*-*-* 00:00:00 UTC
AccuracySec=1min
"""
# A drop-in in place of `systemctl enable`, so that the files alone are enough.
_WANTED = "[Unit]\nWants=relay-warm-up.timer\n"


def render_warm_up(config: RelayConfig, value: Callable[[int | None], str]) -> dict[str, str]:
    """Return the plan and its timer; nothing where no provider warms up by date.

    `value` gives the Postfix parameter's value for a part of the mail in percent.
    """
    if config.warm_up is None or not config.warm_up.steps:
        return {}
    plan = {
        "schema": 1,
        "parameter": "sender_dependent_default_transport_maps",
        "before": value(None),
        "steps": [
            {"date": step.date.isoformat(), "percent": step.percent, "value": value(step.percent)}
            for step in config.warm_up.steps
        ],
    }
    return {
        "etc/relay/warm-up.json": json.dumps(plan, indent=2) + "\n",
        _PROGRAM: assets.read("cloudinit", "postfix/relay-warm-up.py"),
        "etc/systemd/system/relay-warm-up.service": _SERVICE,
        "etc/systemd/system/relay-warm-up.timer": _TIMER,
        "etc/systemd/system/timers.target.d/relay-warm-up.conf": _WANTED,
    }

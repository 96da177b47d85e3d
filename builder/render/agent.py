"""Render what belongs to the agent in the image: its settings, its program and its units."""

from __future__ import annotations

import json
from typing import Any

from builder import assets
from builder.config.model import RelayConfig
from builder.config.routing import ProviderChoice, Quota
from builder.presets import SecretShape
from builder.releases import Release
from builder.render.dkim import agent_dkim
from builder.render.firewall import HEALTH_PORT, agent_firewall
from builder.render.routing import account, password_keys, transports
from builder.render.submission import agent_submission
from builder.render.templates import render_template

POLL_SECONDS = 60
BOOT_DEADLINE_SECONDS = 300


def render_agent(config: RelayConfig, release: Release) -> dict[str, str]:
    """Return the agent's files by their path in the image."""
    settings = json.dumps(agent_settings(config, release), indent=2) + "\n"
    return {"etc/relay/agent.json": settings, **_program(), **_units(release)}


def agent_settings(config: RelayConfig, release: Release) -> dict[str, Any]:
    """Return the content of `/etc/relay/agent.json`, schema 1; nothing in it is secret."""
    settings: dict[str, Any] = {
        "schema": 1,
        "preset": config.preset,
        "region": config.aws_region,
        "upstreams": _upstreams(config),
        "networks": list(config.networks),
        "firewall": agent_firewall(config),
        "hostname": config.hostname,
        "health_port": HEALTH_PORT,
        "poll_seconds": POLL_SECONDS,
        "boot_deadline_seconds": BOOT_DEADLINE_SECONDS,
        "postfix_unit": release.postfix_unit,
    }
    submission = agent_submission(config)
    if submission:
        settings["submission"] = submission
    dkim = agent_dkim(config)
    if dkim:
        settings["dkim"] = dkim
    if config.quota:
        settings["quota"] = _quota(config, config.quota)
        if config.quota.fleet_size is not None:
            settings["fleet_size"] = config.quota.fleet_size
    return settings


def _quota(config: RelayConfig, quota: Quota) -> dict[str, Any]:
    """Describe the account's rate with the figure of the preset where that is to count."""
    known = config.provider.limits.messages_per_second
    rate = quota.messages_per_second
    if rate is None and quota.rate_source == "preset" and known is not None:
        rate = known.value
    described: dict[str, Any] = {
        "messages_per_second": rate,
        "source": quota.rate_source,
        "share": quota.share,
        "sessions": config.delivery_choice.concurrency,
    }
    others = {transport.name: transport.concurrency for transport in transports(config) if transport.waits}
    if others:
        described["transports"] = others
    return described


def _upstreams(config: RelayConfig) -> list[dict[str, Any]]:
    """Describe each account once, whatever leads to it."""
    described: dict[str, dict[str, Any]] = {}
    keys = password_keys(config)
    for name, choice in config.upstreams():
        key = keys[account(choice)]
        described.setdefault(key, _upstream(name, choice, key))
    return list(described.values())


def _upstream(name: str, choice: ProviderChoice, key: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": name,
        "host": choice.upstream_host,
        "port": choice.upstream_port,
        "tls": choice.upstream_tls,
        "shapes": [_shape(shape) for shape in choice.secret_shapes],
        "mechanisms": list(choice.mechanisms),
        "secret": choice.secret_name,
        "region": choice.region,
    }
    if key != choice.upstream_host:
        described["account"] = key
    return described


def _shape(shape: SecretShape) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": shape.name,
        "fields": list(shape.fields),
        "username": shape.username,
        "password": shape.password,
        "derive": shape.derive,
    }
    if shape.mechanism != "password":
        described |= {
            "mechanism": shape.mechanism,
            "token_url": shape.token_url,
            "grant": shape.grant,
            "scope": shape.scope,
        }
    return described


def _program() -> dict[str, str]:
    """Copy the package and its commands as they are."""
    folder = assets.folder("cloudinit") / "agent"
    program = {
        f"usr/lib/relay/{path.relative_to(folder).as_posix()}": path.read_text(encoding="utf-8")
        for path in assets.files_below(folder / "relay_agent")
    }
    commands = assets.files_below(folder / "bin")
    return {**program, **{f"usr/sbin/{path.name}": path.read_text(encoding="utf-8") for path in commands}}


def _units(release: Release) -> dict[str, str]:
    """Return the agent's unit, and what is changed in the one that the release starts Postfix with."""
    return {
        "etc/systemd/system/relay-agent.service": assets.read("cloudinit", "systemd/relay-agent.service"),
        f"etc/systemd/system/{release.postfix_unit}.d/relay.conf": render_template(
            "systemd/postfix.conf.j2", release=release
        ),
    }

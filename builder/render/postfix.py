"""Render Postfix's files: main.cf, the changes to master.cf, and the tables that they name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from builder.config.model import RelayConfig
from builder.releases import Release
from builder.render import access, dkim, hygiene, notices, routing, submission
from builder.render.postfix_values import postfix_network
from builder.render.templates import Checked, one_line, render_template
from builder.render.warm_up import render_warm_up

# Postfix adds a Received line and the provider's own headers follow; a message of exactly the provider's
# limit would be refused there, after we took it.
_HEADER_ROOM_BYTES = 8192
# The first release of each series with smtpd_forbid_unauth_pipelining; newer series have it from the start.
_FORBIDS_PIPELINING_FROM = {(3, 5): 20, (3, 6): 10, (3, 7): 6, (3, 8): 1}
_SENDER_ROUTES = "etc/postfix/sender_routes.regexp"
_TRANSPORT = "etc/postfix/transport"


def render_postfix(config: RelayConfig, release: Release) -> dict[str, str]:
    """Return Postfix's files by their path in the image."""
    rules = access.render_access(config)
    headers = hygiene.render_hygiene(config)
    return {
        "etc/postfix/main.cf": _main_cf(config, release, rules, headers),
        "etc/postfix/reply_filter.regexp": _reply_filter(config),
        "usr/lib/relay/master.cf.edits": _master_cf_edits(config),
        **rules.files,
        **headers.files,
        **notices.render_notices(config),
        **submission.render_submission(config),
        **_routes(config),
        **render_warm_up(config, partial(_sender_transport_maps, config)),
    }


def _main_cf(
    config: RelayConfig, release: Release, rules: access.AccessFiles, headers: hygiene.HygieneFiles
) -> str:
    relayhost, fallback = routing.relayhost(config, release)
    text = render_template(
        "postfix/main.cf.j2",
        config=config,
        release=release,
        title=config.provider.title,
        networks=[postfix_network(network) for network in ("127.0.0.0/8", "::1/128", *config.networks)],
        forbids_unauth_pipelining=_forbids_unauth_pipelining(release),
        message_bytes=_message_size_limit(config),
        relayhost=relayhost,
        fallback_relay=fallback,
        wrappermode=config.upstream_tls == "implicit",
        mechanisms=_mechanisms(config),
        delivery=config.delivery_choice,
        transports=routing.transports(config),
        transport_maps=_transport_maps(config, rules),
        sender_transport_maps=_sender_transport_maps(
            config, config.warm_up.percent if config.warm_up else None
        ),
        rules=rules,
        recipient_restrictions=[*rules.recipient_restrictions, *notices.recipient_restrictions(config)],
        command_filter=notices.command_filter(config),
        keeps_reports=notices.keeps_reports(config),
        limits=list(access.client_limits(config)),
        headers=headers,
        submission=config.submission,
        certificate=submission.CERTIFICATE,
        processes=_processes(config),
        milter=f"unix:{dkim.SOCKET}",
        milter_action=dkim.milter_action(config),
    )
    return _with_parameters(text, config.main_cf)


def _mechanisms(config: RelayConfig) -> list[str]:
    """Return the mechanisms of the providers that share the transport `smtp`."""
    choices = [config, *([config.fallback] if config.fallback else [])]
    return list(dict.fromkeys(name for choice in choices for name in choice.mechanisms))


def _processes(config: RelayConfig) -> int | None:
    """Return default_process_limit where the default of 100 leaves too little beside the sessions out."""
    sessions = max([config.delivery_choice.concurrency, *(t.concurrency for t in routing.transports(config))])
    return sessions * 2 if sessions > 80 else None


def _message_size_limit(config: RelayConfig) -> int:
    if config.message_bytes is not None:
        return config.message_bytes
    known = any(choice.provider.limits.message_bytes for _name, choice in config.upstreams())
    return config.size_limit - (_HEADER_ROOM_BYTES if known else 0)


def _forbids_unauth_pipelining(release: Release) -> bool:
    numbers = [int(number) for number in release.postfix.split(".")]
    first = _FORBIDS_PIPELINING_FROM.get(release.postfix_version)
    return first is not None and numbers[2] >= first


def _reply_filter(config: RelayConfig) -> str:
    replies = {
        reply.pattern: reply
        for _name, choice in config.upstreams()
        for reply in choice.provider.replies
        if reply.rewrite
    }
    return render_template("postfix/reply_filter.regexp.j2", replies=list(replies.values()))


def _master_cf_edits(config: RelayConfig) -> str:
    return render_template(
        "postfix/master.cf.edits.j2",
        transports=routing.transports(config),
        reports=notices.master_cf_edits(config),
    )


def _routes(config: RelayConfig) -> dict[str, str]:
    files = {}
    by_recipient = routing.recipient_table(config)
    if by_recipient:
        files[_TRANSPORT] = render_template(
            "postfix/table.j2", what="Routes by recipient domain (transport(5)).", rows=by_recipient.rows
        )
    rows = _sender_rows(config)
    if rows:
        files[_SENDER_ROUTES] = render_template(
            "postfix/table.j2", what="Routes by envelope sender; the first that matches.", rows=rows
        )
    return files


def _sender_rows(config: RelayConfig) -> list[tuple[str, str]]:
    return [(f"/{pattern}/", result) for pattern, result in routing.sender_rows(config)]


def _transport_maps(config: RelayConfig, rules: access.AccessFiles) -> list[str]:
    texthash = [f"texthash:/{_TRANSPORT}"] if routing.recipient_table(config) else []
    return [*rules.transport_maps, *texthash]


def _sender_transport_maps(config: RelayConfig, percent: int | None) -> str:
    """Return `sender_dependent_default_transport_maps` with this part of the mail for the warm-up."""
    own = [f"regexp:/{_SENDER_ROUTES}"] if _sender_rows(config) else []
    share = routing.warm_up_map(config, percent or 0)
    return ", ".join([*own, *([share] if share else [])])


def _with_parameters(text: str, parameters: Mapping[str, str]) -> str:
    """Put the user's own parameters in: in the place of ours, or at the end.

    Postfix takes the last of two, but warns of it at every start. Which ones may be set is said in
    builder.config.main_cf.
    """
    rest = {}
    for name, value in parameters.items():
        line = Checked(f"# relay.yaml, main_cf\n{name} = {one_line(value, name=f'`main_cf.{name}`')}")
        text, found = re.subn(
            rf"^{re.escape(name)} =.*$", line.replace("\\", r"\\"), text, count=1, flags=re.MULTILINE
        )
        if not found:
            rest[name] = line
    if rest:
        text += "\n# --- from relay.yaml ---\n" + "\n".join(rest.values()) + "\n"
    return text

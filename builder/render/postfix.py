"""Render Postfix's files: main.cf, the changes to master.cf, and the reply filter."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

from builder.config.model import RelayConfig
from builder.errors import ConfigError
from builder.presets import Delivery, TlsMode
from builder.releases import Release
from builder.render.templates import Checked, one_line, render_template

# Postfix adds a Received line and the provider's own headers follow; a message of exactly the provider's
# limit would be refused there, after we took it.
_HEADER_ROOM_BYTES = 8192
# The first release of each series with smtpd_forbid_unauth_pipelining; newer series have it from the start.
_FORBIDS_PIPELINING_FROM = {(3, 5): 20, (3, 6): 10, (3, 7): 6, (3, 8): 1}
# Parameters that carry the promises of DESIGN section 2; `main_cf` may not take them away.
_OURS = {
    "mynetworks": "networks",
    "myhostname": "hostname",
    "myorigin": "domain",
    "relayhost": "preset, region and upstream",
    "message_size_limit": "message_bytes",
    "smtpd_relay_restrictions": None,
    "smtp_sasl_auth_enable": None,
    "smtp_sasl_password_maps": None,
    "smtp_sasl_security_options": None,
    "smtp_sasl_tls_security_options": None,
    "smtp_tls_security_level": None,
    "smtp_tls_secure_cert_match": None,
    "smtp_reply_filter": None,
    "soft_bounce": None,
}


def render_postfix(config: RelayConfig, release: Release) -> dict[str, str]:
    """Return Postfix's files by their path in the image."""
    return {
        "etc/postfix/main.cf": render_main_cf(config, release),
        "etc/postfix/reply_filter.regexp": _reply_filter(config),
        "usr/lib/relay/master.cf.edits": render_template("postfix/master.cf.edits.j2"),
    }


def render_main_cf(config: RelayConfig, release: Release) -> str:
    """Return main.cf for a release; ConfigError for a `main_cf` key that is not the user's to set."""
    provider = config.provider
    limits = provider.limits
    text = render_template(
        "postfix/main.cf.j2",
        config=config,
        release=release,
        title=provider.title,
        networks=[postfix_network(network) for network in ("127.0.0.0/8", "::1/128", *config.networks)],
        forbids_unauth_pipelining=_forbids_unauth_pipelining(release),
        message_bytes=_message_size_limit(config),
        recipients=limits.recipients_per_message.value if limits.recipients_per_message else None,
        relayhost=f"[{config.upstream_host}]:{config.upstream_port}",
        wrappermode=tls_mode(config) == "implicit",
        mechanisms=provider.mechanisms,
        delivery=delivery(config),
    )
    return _with_parameters(text, config.main_cf)


def postfix_network(network: str) -> str:
    """Write a network as `mynetworks` wants it: IPv6 addresses in brackets (postconf(5))."""
    parsed = ipaddress.ip_network(network)
    if parsed.version == 6:
        return f"[{parsed.network_address}]/{parsed.prefixlen}"
    return str(parsed)


def tls_mode(config: RelayConfig) -> TlsMode:
    """Return how TLS begins at the provider; a port that the preset does not list begins with STARTTLS."""
    try:
        return config.provider.tls_mode(config.upstream_port)
    except KeyError:
        return "implicit" if config.upstream_port in (465, 2465, 8465) else "starttls"


def delivery(config: RelayConfig) -> Delivery:
    """Return the preset's choices with those of relay.yaml over them."""
    chosen = config.delivery.model_dump(exclude_none=True)
    return config.provider.delivery.model_copy(update=chosen)


def _message_size_limit(config: RelayConfig) -> int | None:
    if config.message_bytes is not None:
        return config.message_bytes
    limit = config.provider.limits.message_bytes
    return limit.value - _HEADER_ROOM_BYTES if limit else None


def _forbids_unauth_pipelining(release: Release) -> bool:
    numbers = [int(number) for number in release.postfix.split(".")]
    first = _FORBIDS_PIPELINING_FROM.get(release.postfix_version)
    return first is not None and numbers[2] >= first


def _reply_filter(config: RelayConfig) -> str:
    replies = [reply for reply in config.provider.replies if reply.rewrite]
    return render_template("postfix/reply_filter.regexp.j2", replies=replies)


def _with_parameters(text: str, parameters: Mapping[str, str]) -> str:
    """Put the user's own parameters in: in the place of ours, or at the end.

    Postfix takes the last of two, but warns of it at every start.
    """
    problems = list(_problems(parameters))
    if problems:
        raise ConfigError("relay.yaml", problems)
    rest = {}
    for name, value in parameters.items():
        line = f"# relay.yaml, main_cf\n{name} = {one_line(value)}"
        text, found = re.subn(rf"^{name} =.*$", line.replace("\\", r"\\"), text, count=1, flags=re.MULTILINE)
        if not found:
            rest[name] = Checked(line)
    if rest:
        text += "\n# --- from relay.yaml ---\n" + "\n".join(rest.values()) + "\n"
    return text


def _problems(parameters: Mapping[str, str]) -> Iterable[str]:
    for name, value in parameters.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
            yield f"`main_cf` has the key `{name}`, which is not the name of a Postfix parameter"
        elif name in _OURS:
            key = _OURS[name]
            use = f"; use `{key}`" if key else ": a promise of the relay depends on it"
            yield f"`main_cf.{name}` cannot be set{use}"
        elif re.search(r"[\x00-\x1f\x7f]", value):
            yield f"`main_cf.{name}` holds a line break or another control character"

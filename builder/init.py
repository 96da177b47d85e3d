"""Write a commented `relay.yaml` to start from."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from builder.config import load_config
from builder.errors import BuilderError
from builder.presets import Limits, Preset, load_preset

_WIDTH = 96
_EXAMPLE_HOST = "smtp.example.com"


def relay_yaml(
    preset_name: str,
    *,
    region: str | None = None,
    hostname: str | None = None,
    networks: Sequence[str] = (),
    secret: str | None = None,
    host: str | None = None,
) -> str:
    """Return a commented relay.yaml for a preset; it loads without errors as it is.

    What is not given is the preset's or an example value: the first region, `relay.example.com`. `host` is
    for preset `custom`. Errors: BuilderError for an unknown preset or a wrong value.
    """
    preset = load_preset(preset_name)
    given = {
        "preset": preset.name,
        "region": region or _first_region(preset),
        "hostname": hostname or "relay.example.com",
        "networks": list(networks) or None,
        "secret": secret or f"relay/{preset.name}",
        "upstream.host": host or (_EXAMPLE_HOST if preset.host_is_yours else None),
    }
    config = load_config(None, given)
    parts = [
        _head(preset),
        _provider(preset, config.region, config.upstream.host),
        _relay(config.hostname, config.networks),
        _secret(preset, config.secret_name),
        _limits(preset),
        _OPTIONAL.format(fallback="postmark" if preset.name == "sendgrid" else "sendgrid"),
        _hygiene(preset),
        _DSN,
        _DKIM,
    ]
    return "\n".join(parts)


def write_relay_yaml(path: Path, text: str) -> None:
    """Write the file; BuilderError when there is one already, which is left as it is."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError as error:
        there = isinstance(error, FileExistsError)
        what = "it is there already" if there else error.strerror
        hint = "Name another file, or move that one away" if there else "Name another file with `--out`"
        raise BuilderError(f"`{path}` was not written: {what}", hint=hint) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        path.unlink()
        raise BuilderError(
            f"`{path}` was not written: {error.strerror}",
            hint="Free some space, or name another file with `--out`",
        ) from error


def _first_region(preset: Preset) -> str | None:
    regions = list(preset.hosts.value)
    if not preset.has_regions:
        return None
    return "us-east-1" if "us-east-1" in regions else regions[0]


def _comment(text: str, *, indent: str = "") -> str:
    wrapped = textwrap.wrap(text, _WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"{indent}# {line}\n" for line in wrapped)


def _head(preset: Preset) -> str:
    return (
        _comment(f"A relay that sends through {preset.title}: {preset.summary}.")
        + _comment("Lines that begin with # are comments; those with a key show what else can be set.")
        + _comment("No password belongs here: the relay fetches it from AWS Secrets Manager when it boots.")
    )


def _provider(preset: Preset, region: str | None, host: str | None) -> str:
    lines = [
        _comment(f"The provider. `builder presets {preset.name} --sources` shows all that is known of it.")
    ]
    lines.append(f"preset: {preset.name}\n")
    if preset.has_regions:
        known = list(preset.hosts.value)
        others = (
            f"One of {', '.join(known)}." if len(known) < 10 else "Where you use it; the host depends on it."
        )
        lines += [_comment(f"{others} {preset.regions_note}".strip()), f"region: {region}\n"]
    else:
        lines += [
            _comment("AWS region of Secrets Manager; the instance's own when not set."),
            "# secret_region: us-east-1\n",
        ]
    ports = ", ".join(str(port.port) for port in preset.ports)
    if preset.host_is_yours:
        lines += ["upstream:\n", _comment("Your provider's SMTP server.", indent="  "), f"  host: {host}\n"]
        lines += [
            _comment("587 (STARTTLS) or 465 (TLS from the start), or another with `tls:`.", indent="  ")
        ]
        lines += ["  # port: 587\n", "  # tls: starttls\n"]
    else:
        lines += [_comment(f"Port {preset.default_port} is used; also possible: {ports}."), "# upstream:\n"]
        lines += [f"#   port: {preset.default_port}\n"]
        for other in preset.other_hosts:
            lines += [_comment(f"  # {other.what}:"), f"#   host: {other.example}\n"]
    return "".join(lines)


def _relay(hostname: str, networks: Sequence[str]) -> str:
    return (
        _comment(
            "The relay's own name (each instance may be given its own at launch), and the domain that is"
        )
        + _comment("added to senders without one: the name's parent when not set.")
        + f"hostname: {hostname}\n# domain: example.com\n\n"
        + _comment("Who may send without logging in. Nobody else can.")
        + "networks:\n"
        + "".join(f"  - {network}\n" for network in networks)
    )


def _secret(preset: Preset, name: str) -> str:
    shapes = " or ".join(
        "{" + ", ".join(f'"{field}": …' for field in shape.fields) + "}" for shape in preset.secret_shapes
    )
    steps = "".join(
        f"#   {line}\n" if line else "#\n" for line in preset.get_credential.rstrip().splitlines()
    )
    return (
        _comment("Name or ARN of the secret in AWS Secrets Manager. It holds")
        + _comment(f"{shapes}.")
        + "# How to get it:\n"
        + steps
        + f"secret: {name}\n"
        + (_AUTH if len({shape.mechanism for shape in preset.secret_shapes}) > 1 else "")
    )


def _limits(preset: Preset) -> str:
    delivery, size = preset.delivery, preset.limits.message_bytes
    return (
        _comment(f"Delivery. {_sentence(delivery.reason)}")
        + "# delivery:\n"
        + f"#   concurrency: {delivery.concurrency}\n"
        + f"#   messages_per_connection: {delivery.messages_per_connection}\n"
        + f"#   queue_lifetime_hours: {delivery.queue_lifetime_hours}\n\n"
        + _comment(f"Largest message, encoded{'' if size else '; the provider publishes no limit'}.")
        + f"# message_bytes: {size.value if size else 10_000_000}\n\n"
        + _comment(_rate_words(preset.limits, preset.name))
        + "# quota:\n"
        + ("#   source: ses_get_send_quota\n" if preset.name == "ses" else "#   messages_per_second: 0.5\n")
        + "#   share: fleet\n"
        + "#   fleet_size: auto_scaling\n"
    )


def _rate_words(limits: Limits, name: str) -> str:
    text = "How fast the account may send; the relays of a fleet share it."
    return f"{text} SES is asked for your quota." if name == "ses" else text


def _hygiene(preset: Preset) -> str:
    ses = _SES if preset.name == "ses" else ""
    return _HYGIENE + ses + (_SENDER if preset.sender_must_be_account else "")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


_OPTIONAL = """\
# Which senders and recipients are accepted; the first rule that matches decides.
# access:
#   senders:
#     otherwise: reject                  # allow when not set
#     rules:
#       - {{kind: domain, pattern: example.com, action: allow}}
#       - {{kind: exact, pattern: test@example.org, action: discard}}
#       - {{kind: regexp, pattern: '^bounce-[0-9]+@', action: reject, text: not from here}}
#   sender_domains:
#     - {{networks: [10.1.0.0/16], domains: [shop.example.com]}}

# Limits for each client address.
# clients:
#   connections: 50
#   messages_per_minute: 1000

# Clients that log in over TLS on port 587; their names and passwords are in the secret.
# submission:
#   secret: relay/submission

# A second provider that takes over when the first has a fault, and routes by domain.
# fallback:
#   preset: {fallback}
# routes:
#   - {{name: news, sender_domains: [news.example.com], preset: postmark}}
"""
_AUTH = """\
# Log in with OAuth 2.0 (docs/oauth.md). Set here too, because the image then has more in it.
# auth: xoauth2
"""
_HYGIENE = """\
# What happens to messages on their way.
# hygiene:
#   strip_received: true
#   strip_client_headers: true
"""
_SES = """\
#   configuration_set: relay             # X-SES-CONFIGURATION-SET, once
#   tags: {application: shop}            # X-SES-MESSAGE-TAGS
"""
_SENDER = """\
#   sender_rewrite:                      # other senders than the account's are refused or replaced
#     address: you@example.com
#     keep: [example.com]
"""
_DSN = """\
# Where bounces go; kept on the relay when not set.
# dsn:
#   address: postmaster@example.com
#   from_clients: reject                 # clients' mail with a null sender; or rewrite, or pass
"""
_DKIM = """\
# Sign mail on the relay, where the provider does not (docs/dkim.md); the secret: {"private_key": PEM}.
# dkim:
#   keys:
#     - {domain: example.com, selector: relay2026, secret: relay/dkim}
#   signer_down: defer                   # or send_unsigned
"""

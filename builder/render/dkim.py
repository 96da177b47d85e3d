"""Render DKIM signing: OpenDKIM as a milter of Postfix, its tables and its unit; keys come from the agent."""

from __future__ import annotations

from typing import Any

from builder import assets
from builder.config.dkim import DkimKey
from builder.config.model import RelayConfig
from builder.render.templates import render_template

PACKAGE = "opendkim"
UNIT = "relay-dkim.service"
# On tmpfs: the keys, which only the signer reads, and the socket, which only Postfix reaches.
KEYS = "/run/relay-dkim/keys"
SOCKET = "/run/relay-dkim/milter/socket"
_FOLDER = "etc/relay/dkim"
# RFC 6376, 5.4.1, with what says how a body is to be read.
_SIGNED = (
    *("From", "Reply-To", "Subject", "Date", "To", "Cc", "Message-ID", "In-Reply-To", "References"),
    *("MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Resent-Date", "Resent-From", "Resent-To"),
    *("Resent-Cc", "List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe"),
    *("List-Post", "List-Owner", "List-Archive"),
)
_OMITTED = ("Return-Path", "Received", "Comments", "Keywords", "Bcc", "Resent-Bcc", "DKIM-Signature")
# SES puts its own in their place, which would break the signature:
# https://docs.aws.amazon.com/ses/latest/dg/send-email-authentication-dkim-manual.html
_REPLACED_BY_SES = ("Message-ID", "Date", "Bounces-To")


def render_dkim(config: RelayConfig) -> dict[str, str]:
    """Return the signer's files by their path in the image; nothing when it was not asked for."""
    if config.dkim is None:
        return {}
    rows = [(key, f"{key.domain}:{key.selector}:{key_file(key)}") for key in config.dkim.keys]
    # The first pattern that matches is used: what lies deeper comes first.
    deepest = sorted(config.dkim.keys, key=lambda key: -key.domain.count("."))
    return {
        f"{_FOLDER}/opendkim.conf": _conf(config, config.dkim.signer_down),
        f"{_FOLDER}/hosts": "0.0.0.0/0\n::/0\n",
        f"{_FOLDER}/key.table": "".join(f"{key.domain} {row}\n" for key, row in rows),
        f"{_FOLDER}/signing.table": "".join(
            f"*@{key.domain} {key.domain}\n*@*.{key.domain} {key.domain}\n" for key in deepest
        ),
        f"etc/systemd/system/{UNIT}": assets.read("cloudinit", f"dkim/{UNIT}"),
        "usr/lib/tmpfiles.d/relay-dkim.conf": (
            "# Keys and socket of the DKIM signer, on tmpfs.\n"
            "d /run/relay-dkim 0755 root root -\n"
            f"d {KEYS} 0700 opendkim opendkim -\n"
            f"d {SOCKET.rpartition('/')[0]} 0750 opendkim postfix -\n"
        ),
    }


def key_file(key: DkimKey) -> str:
    """Return where the agent puts a private key."""
    return f"{KEYS}/{key.domain}.pem"


def milter_action(config: RelayConfig) -> str:
    """Return `milter_default_action`: what Postfix does with mail that cannot be signed."""
    return "accept" if config.dkim and config.dkim.signer_down == "send_unsigned" else "tempfail"


def agent_dkim(config: RelayConfig) -> dict[str, Any] | None:
    """Return what the agent has to know about it."""
    if config.dkim is None:
        return None
    return {
        "unit": UNIT,
        "socket": SOCKET,
        "must_sign": config.dkim.signer_down == "defer",
        "keys": [{**key.model_dump(), "file": key_file(key)} for key in config.dkim.keys],
    }


def _conf(config: RelayConfig, signer_down: str) -> str:
    uses_ses = any(choice.preset == "ses" for _name, choice in config.upstreams())
    replaced = _REPLACED_BY_SES if uses_ses else ()
    reason = "SES puts its own Message-ID and Date into a message." if uses_ses else "RFC 6376, 5.4.1."
    return render_template(
        "dkim/opendkim.conf.j2",
        socket=SOCKET,
        folder=f"/{_FOLDER}",
        signed=[name for name in _SIGNED if name not in replaced],
        omitted=[*_OMITTED, *replaced],
        why_not_signed=reason,
        action="accept" if signer_down == "send_unsigned" else "tempfail",
    )

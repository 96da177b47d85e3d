"""Render where reports of non-delivery go, and what becomes of clients' mail with a null sender."""

from __future__ import annotations

from builder import assets
from builder.config.model import RelayConfig
from builder.render.routing import SPOOL_TRANSPORT
from builder.render.templates import regexp_result, render_template

SPOOL = "/var/spool/relay-dsn"
_KEEP_DSN = "usr/lib/relay/bin/keep-dsn"
_CHECKS = "etc/postfix/notices.regexp"
_NULL_SENDER = "etc/postfix/null_sender.regexp"
# cleanup(8) for what bounce(8) writes, so that its messages alone are looked at.
_CLEANUP = "cleanup-dsn"
_CLEANUP_OPTIONS = {
    "header_checks": f"regexp:/{_CHECKS}",
    "nested_header_checks": "",
    "mime_header_checks": "",
    "body_checks": "",
    "non_smtpd_milters": "",
}
# bounce(8) itself says whether header_checks and milters are for what it writes (post_mail.c).
_BOUNCE_OPTIONS = {"cleanup_service_name": _CLEANUP, "internal_mail_filter_classes": "bounce"}


def keeps_reports(config: RelayConfig) -> bool:
    """Say whether reports of non-delivery stay here: the provider is not known to take a null sender."""
    accepts = config.provider.accepts_null_sender
    return accepts is None or not accepts.value


def refuses_null_sender(config: RelayConfig) -> bool:
    """Say whether such mail gets our own refusal, with no access rule that could come before it."""
    return config.null_sender == "reject" and not config.access.senders.rules


def recipient_restrictions(config: RelayConfig) -> tuple[str, ...]:
    """Return what smtpd asks about the null sender, after the access rules."""
    return (f"check_sender_access regexp:/{_NULL_SENDER}",) if config.null_sender == "reject" else ()


def command_filter(config: RelayConfig) -> str:
    """Return `smtpd_command_filter`: the one place where Postfix can replace a null sender."""
    return f"regexp:/{_NULL_SENDER}" if config.null_sender == "rewrite" else ""


def render_notices(config: RelayConfig) -> dict[str, str]:
    """Return the files for reports of non-delivery and for the null sender."""
    files = {}
    sender = config.notice_sender
    if keeps_reports(config):
        files[_KEEP_DSN] = assets.read("cloudinit", "postfix/keep-dsn.sh")
        files[_CHECKS] = render_template(
            "postfix/notices.regexp.j2", spool=SPOOL_TRANSPORT, has_address=sender is not None
        )
        files["usr/lib/tmpfiles.d/relay-dsn.conf"] = (
            "# Reports of non-delivery; systemd-tmpfiles removes old ones.\n"
            f"d {SPOOL} 0750 mail mail {config.dsn.spool_days}d\n"
        )
    if sender is not None:
        files["etc/postfix/generic.regexp"] = (
            f"# Notices have a sender that the provider knows.\n/^double-bounce@/  {regexp_result(sender)}\n"
        )
    if config.null_sender != "pass":
        files[_NULL_SENDER] = render_template(
            "postfix/null_sender.regexp.j2",
            choice=config.null_sender,
            sender=regexp_result(sender or ""),
        )
    return files


def master_cf_edits(config: RelayConfig) -> list[str]:
    """Return the changes to master.cf that put reports into files; none where the provider takes them."""
    if not keeps_reports(config):
        return []
    spool = (
        f"{SPOOL_TRANSPORT} unix - n n - 2 pipe flags=Rq user=mail argv=/{_KEEP_DSN} {SPOOL} ${{queue_id}}"
    )
    options = " ".join(f"-o {name}={value}" for name, value in _CLEANUP_OPTIONS.items())
    return [
        f"-Me {SPOOL_TRANSPORT}/unix={spool}",
        f"-Me {_CLEANUP}/unix={_CLEANUP} unix n - n - 0 cleanup {options}",
        *(
            f"-Pe {service}/unix/{name}={value}"
            for service in ("bounce", "defer", "trace")
            for name, value in _BOUNCE_OPTIONS.items()
        ),
    ]

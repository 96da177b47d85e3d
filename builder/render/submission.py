"""Render authenticated submission: clients that log in over TLS, with users from a secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from builder.config.model import RelayConfig
from builder.config.policy import Submission

# Written by the agent, on tmpfs: certificate with key (read by root), and users (read by Postfix).
CERTIFICATE = "/run/relay/submission.pem"
USERS = "/run/relay-users/sasldb2"


@dataclass(frozen=True)
class SubmissionService:
    """An entry of master.cf: its name there and the whole line."""

    service: str
    entry: str


def submission_service(config: RelayConfig) -> SubmissionService | None:
    """Return the entry for the port, or None when it was not asked for.

    It is not in master.cf as baked: like port 25 the agent opens it, when there is a certificate and a user.
    """
    if config.submission is None:
        return None
    name = "submission" if config.submission.port == 587 else "smtps"
    return SubmissionService(name, f"{name} inet n - n - - smtpd {_options(config.submission)}")


def _options(submission: Submission) -> str:
    options = {
        "syslog_name": "postfix/submission",
        "smtpd_tls_security_level": "encrypt",
        "smtpd_tls_wrappermode": "yes" if submission.port == 465 else "no",
        "smtpd_sasl_auth_enable": "yes",
        # Networks do not count here: who uses this port logs in.
        "smtpd_relay_restrictions": "permit_sasl_authenticated,reject",
    }
    return " ".join(f"-o {name}={value}" for name, value in options.items())


def render_submission(config: RelayConfig) -> dict[str, str]:
    """Return the files for logging in; nothing when it was not asked for."""
    if config.submission is None:
        return {}
    return {
        "etc/postfix/sasl/smtpd.conf": (
            "# Cyrus SASL for Postfix's smtpd: users are in a file that the agent writes on tmpfs.\n"
            "pwcheck_method: auxprop\n"
            "auxprop_plugin: sasldb\n"
            f"sasldb_path: {USERS}\n"
            "mech_list: PLAIN LOGIN\n"
        ),
        "usr/lib/tmpfiles.d/relay-users.conf": (
            "# Users of the submission port; on tmpfs, readable by Postfix alone.\n"
            "d /run/relay-users 0750 root postfix -\n"
        ),
    }


def agent_submission(config: RelayConfig) -> dict[str, Any] | None:
    """Return what the agent has to know about it."""
    submission, service = config.submission, submission_service(config)
    if submission is None or service is None:
        return None
    return {
        "service": service.service,
        "master_cf": service.entry,
        "secret": submission.secret,
        "certificate": submission.certificate,
        "certificate_file": CERTIFICATE,
        "users_file": USERS,
        "realm": config.mail_domain,
        "port": submission.port,
    }

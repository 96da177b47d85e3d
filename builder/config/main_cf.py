"""Which main.cf parameters `main_cf:` may not set, why, and the key to use in place of each."""

from __future__ import annotations

import re
from typing import Any

_TLS = "the provider's certificate is always checked, else an impostor gets the password"
_LOGIN = "credentials come from Secrets Manager at boot and mail never leaves without a login"
_CLOSED = "only `networks` and clients that log in may relay"
_ROUTE = "every message must go to a provider that has a credential"
_NO_LOCAL = "the relay delivers nothing locally"
_LAYOUT = "the agent and the units rely on it"
_LOG = "it can write credentials or message content to the log"
_SAFE = "it keeps messages apart that a client tries to smuggle into one"
_KEEP = "what is accepted is kept until delivered"
_BY_KEY = "there is a key for it"

# (regular expression over the whole name, why it is refused, key to use or "")
_REFUSED: tuple[tuple[str, str, str], ...] = (
    (r"smtp_tls_wrappermode|lmtp_tls_wrappermode", _BY_KEY, "upstream.port"),
    (
        r"smtp_tls_(security_level|policy_maps|per_site|CAfile|CApath|.*cert_match|mandatory_.*|dane_.*)",
        _TLS,
        "",
    ),
    (r"smtp_(use_tls|enforce_tls|tls_enforce_peername|tls_connection_reuse|tls_trust_anchor_file)", _TLS, ""),
    (r"smtp_tls_(scert_verifydepth|protocols|ciphers|exclude_ciphers|servername|fingerprint_.*)", _TLS, ""),
    (r"smtp_sasl_password_maps", _LOGIN, "secret"),
    (r"smtp_sasl_mechanism_filter", _LOGIN, "auth"),
    (r"smtp_sasl_.*|smtp_sender_dependent_authentication", _LOGIN, ""),
    (r"mynetworks|mynetworks_style|proxy_interfaces", _CLOSED, "networks"),
    (r"smtpd_(client|helo|sender|recipient|data|end_of_data|etrn)_restrictions", _CLOSED, "access"),
    (
        r"smtpd_(relay_restrictions|restriction_classes|delay_reject|reject_.*|.*_login_maps)",
        _CLOSED,
        "access",
    ),
    (r"smtpd_authorized_(xclient|xforward)_hosts|smtpd_upstream_proxy_.*", _CLOSED, ""),
    (r"parent_domain_matches_subdomains|permit_mx_backup_networks", _CLOSED, "access"),
    (
        r"smtpd_(sasl|tls)_.*|smtpd_use_tls|smtpd_enforce_tls|tls_server_.*|broken_sasl_.*",
        _BY_KEY,
        "submission",
    ),
    (r"relay_domains|relay_recipient_maps|virtual_.*|mydestination|local_.*|alias_.*", _NO_LOCAL, ""),
    (r"mailbox_.*|home_mailbox|luser_relay|allow_mail_to_.*|forward_path", _NO_LOCAL, ""),
    (r"relayhost", _ROUTE, "upstream.host"),
    (r"smtp_fallback_relay|fallback_relay|fallback_transport(_maps)?", _ROUTE, "fallback"),
    (r"transport_maps|(default|relay|local)_transport|sender_dependent_.*_maps", _ROUTE, "routes"),
    (r"smtp_(host|dns_.*)_?lookup.*|disable_dns_lookups|defer_transports", _ROUTE, ""),
    # Both hand mail on to another server before any transport is chosen.
    (r"content_filter|smtpd_proxy_.*", _ROUTE, ""),
    (r"smtp_reply_filter|smtp_delivery_status_filter|soft_bounce|.*_delivery_status_filter", _KEEP, ""),
    (r"maximal_queue_lifetime|bounce_queue_lifetime", _BY_KEY, "delivery.queue_lifetime_hours"),
    (r"smtp_connection_reuse_count_limit", _BY_KEY, "delivery.messages_per_connection"),
    (r"(default|smtp)_destination_concurrency_limit", _BY_KEY, "delivery.concurrency"),
    (r"(smtp_)?initial_destination_concurrency|smtp_initial_.*", _BY_KEY, "delivery.initial_concurrency"),
    (r"(default|smtp)_destination_recipient_limit", _BY_KEY, "delivery.recipients_per_delivery"),
    (r"(default|smtp)_(destination|transport)_rate_delay", _BY_KEY, "quota"),
    (r"message_size_limit", _BY_KEY, "message_bytes"),
    (r"smtpd_recipient_limit", _BY_KEY, "recipients_per_message"),
    (r"smtpd_client_.*_limit|smtpd_client_event_limit_exceptions|anvil_.*", _BY_KEY, "clients"),
    (r"smtp_helo_name|myhostname", _BY_KEY, "hostname"),
    (r"myorigin|mydomain", _BY_KEY, "domain"),
    (r"inet_interfaces|master_service_disable", "port 25 opens only after the credential was proven", ""),
    (r"(smtp_|mime_|nested_)?header_checks|(smtp_)?body_checks", _BY_KEY, "hygiene"),
    (r"(sender_|recipient_)?canonical_.*|masquerade_.*|smtp_generic_maps", _BY_KEY, "hygiene.sender_rewrite"),
    (
        r"notify_classes|.*_notice_recipient|double_bounce_sender|bounce_.*|empty_address_.*"
        r"|smtpd_command_filter|smtpd_null_.*|cleanup_service_name",
        _BY_KEY,
        "dsn",
    ),
    (r"receive_override_options", "it leaves out what `dkim` and `hygiene` ask for", ""),
    (r"(non_)?smtpd_milters|smtpd_milter_maps|milter_.*|internal_mail_filter_classes", _BY_KEY, "dkim"),
    # A client that cannot end a message otherwise may be let off by its address.
    (
        r"smtpd_discard_ehlo_.*|smtpd_forbid_(?!bare_newline_exclusions$).*"
        r"|disable_vrfy_command|strict_rfc821_.*",
        _SAFE,
        "",
    ),
    (r"debug_peer_.*|debugger_command|smtp_tls_loglevel|smtpd_tls_loglevel|maillog_file.*", _LOG, ""),
    (r"(queue|command|daemon|data|config|meta|shlib|html|readme|manpage|sample)_directory", _LAYOUT, ""),
    (
        r"mail_owner|setgid_group|default_privs|compatibility_level|(sendmail|mailq|newaliases)_path",
        _LAYOUT,
        "",
    ),
    (r"multi_instance_.*|alternate_config_directories|(im|ex)port_environment|syslog_.*", _LAYOUT, ""),
    (r"authorized_(submit|flush|mailq|verp)_.*|default_database_type|postmulti_.*", _LAYOUT, ""),
)

# While a message waits for its turn, its delivery process looks stuck to Postfix.
_KEEPS_QUOTA: tuple[tuple[str, str, str], ...] = (
    (r"smtp_connection_cache_destinations", "it is what keeps the rate of `quota`", ""),
    (r"daemon_timeout", "it is how long a message may wait for its turn at the rate of `quota`", ""),
)


def problem(name: str, value: str, *, has_quota: bool = False) -> tuple[str, str | None] | None:
    """Say why a parameter is refused and what to do; None when it may be set. Never repeats the value.

    With a quota, nor may what keeps it be set.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        return "is not the name of a main.cf parameter (letters, digits and `_`)", None
    if not re.fullmatch(r"[ -~]*", value):
        return (
            "has a value of several lines or with other than ASCII characters; a line would be cut off",
            None,
        )
    for pattern, why, key in (*_REFUSED, *(_KEEPS_QUOTA if has_quota else ())):
        if re.fullmatch(pattern, name):
            return f"may not be set: {why}", f"Use `{key}`" if key else "Remove the line"
    return None


def as_text(value: Any) -> Any:
    """Read what YAML made of a parameter's value back into Postfix's words: 300, and yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, (int, float)) else value

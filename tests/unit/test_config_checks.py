"""What relay.yaml refuses, with the key and the reason."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.relay_yaml import CUSTOM, SES, config, problems


def _dkim_key(**changes: str) -> dict[str, str]:
    return {"domain": "a.example", "selector": "s1", "secret": "relay/dkim", **changes}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        # The provider
        ({"preset": "sses"}, "`preset` is `sses`, which is not a preset"),
        ({"region": "us-wset-2"}, "`region` is `us-wset-2`, where Amazon SES has no SMTP endpoint"),
        ({"region": "mars"}, "Known regions: af-south-1, "),
        ({"preset": "mailgun", "region": None}, "`region` is missing; the host of Mailgun depends on it"),
        ({"preset": "gmail", "region": "eu"}, "`region` is `eu`, but Gmail has no regions"),
        ({"upstream": {"host": "smtp.example.com"}}, "but preset `ses` accepts its own host, names such as"),
        ({"upstream": {"tls": "implicit"}}, "`upstream.tls` is set, but preset `ses` knows"),
        ({"upstream": {"port": 70000}}, "`upstream.port` is `70000`, expected 65535 or less"),
        (
            {"upstream": {"host": "email-smtp-fips.us-west-2.amazonaws.com"}},
            "is in `us-west-2`, but `region` is `us-east-1`",
        ),
        ({"preset": "custom"}, "`upstream.host` is missing; preset `custom` has no host of its own"),
        ({"auth": "xoauth2"}, "`auth` is `xoauth2`, but preset `ses` logs in with password"),
        ({"secret_region": "virginia"}, "expected an AWS region such as `us-east-1`"),
        # Names
        ({"hostname": "relay"}, "expected a fully qualified host name"),
        ({"hostname": "10.0.0.1"}, "expected a fully qualified host name"),
        ({"hostname": "re_lay.example.com"}, "expected a fully qualified host name"),
        ({"hostname": "-a.example.com"}, "expected a fully qualified host name"),
        ({"hostname": "h" * 64 + ".example.com"}, "expected a fully qualified host name"),
        ({"hostname": "email-smtp.us-east-1.amazonaws.com"}, "the name of the provider"),
        ({"domain": "localhost"}, "`domain` is `localhost`, expected a domain"),
        ({"secret": "arn:aws:s3:::bucket"}, "expected the name of a secret in Secrets Manager"),
        ({"secret": "relay:ses"}, "expected the name of a secret in Secrets Manager"),
        ({"packages": ["exim4-daemon-light"]}, "expected a package that does not replace Postfix"),
        ({"packages": ["tcp dump"]}, "expected the name of a Debian package"),
        ({"packages": ["-oAPT::x"]}, "expected the name of a Debian package"),
        # Sizes and delivery
        ({"message_bytes": 50_000_000}, "`message_bytes` is 50000000, but Amazon SES takes 40000000 at most"),
        ({"message_bytes": 10}, "expected 1024 or more"),
        ({"message_bytes": 11_000_000, "fallback": {"preset": "postmark"}}, "but Postmark takes 10000000"),
        ({"recipients_per_message": 0}, "expected 1 or more"),
        ({"delivery": {"recipients_per_delivery": 51}}, "is 51, but Amazon SES takes 50 at most"),
        (
            {
                **CUSTOM,
                "fallback": {"preset": "ses", "region": "us-east-1"},
                "delivery": {"recipients_per_delivery": 500},
            },
            "`delivery.recipients_per_delivery` is 500, but Amazon SES takes 50 at most",
        ),
        (
            {
                **CUSTOM,
                "routes": [{"name": "a", **SES, "sender_domains": ["a.example"]}],
                "delivery": {"recipients_per_delivery": 500},
            },
            "is 500, but Amazon SES takes 50 at most",
        ),
        (
            {**CUSTOM, "fallback": {"preset": "microsoft365"}, "delivery": {"concurrency": 10}},
            "`delivery.concurrency` is 10, but Microsoft 365 takes 3 at most",
        ),
        (
            {"message_bytes": 50_000_000, "fallback": {"preset": "postmark"}},
            "is 50000000, but Postmark takes 10000000 at most",
        ),
        ({"delivery": {"initial_concurrency": 130}}, "is 130, more than the concurrency of 100"),
        ({"delivery": {"concurrency": 0}}, "expected 1 or more"),
        (
            {"preset": "microsoft365", "delivery": {"concurrency": 4}},
            "is 4, but Microsoft 365 takes 3 at most",
        ),
        (
            {"preset": "sendgrid", "delivery": {"messages_per_connection": 5001}},
            "SendGrid takes 5000 at most",
        ),
        # Quota
        ({"quota": {"messages_per_second": 0}}, "expected 0.001 or more"),
        ({"quota": {"messages_per_second": -1}}, "expected 0.001 or more"),
        ({"quota": {"messages_per_second": 0.0001}}, "is `0.0001`, expected 0.001 or more"),
        (
            {"quota": {"messages_per_second": 3, "fleet_size": 0}},
            "`quota.fleet_size` is `0`, expected",
        ),
        ({"quota": {"messages_per_second": 3, "fleet_size": True}}, "or `auto_scaling`"),
        (
            {"quota": {"messages_per_second": 3, "fleet_size": "all"}},
            "expected a whole number from 1",
        ),
        (
            {"quota": {"messages_per_second": 3, "fleet_size": 2, "share": "node"}},
            "`quota.fleet_size` is set, but `share: node` divides by nothing",
        ),
        (
            {
                "quota": {"messages_per_second": 3},
                "main_cf": {"smtp_connection_cache_destinations": "static:all"},
            },
            "`main_cf.smtp_connection_cache_destinations` may not be set: it is what keeps the rate",
        ),
        (
            {"quota": {"messages_per_second": 3}, "main_cf": {"daemon_timeout": "300s"}},
            "`main_cf.daemon_timeout` may not be set: it is how long a message may wait",
        ),
        ({"quota": {}}, "Amazon SES publishes no rate"),
        ({"quota": {"source": "config"}}, "is missing for `source: config`"),
        ({"quota": {"source": "ses_get_send_quota", "messages_per_second": 3}}, "is set, but the rate comes"),
        ({"preset": "postmark", "quota": {"source": "ses_get_send_quota"}}, "but the preset is `postmark`"),
        (
            {"preset": "microsoft365", "quota": {"messages_per_second": 2}},
            "is 2, but Microsoft 365 takes 0.5",
        ),
        # Several providers
        (
            {**CUSTOM, "hostname": "smtp.custom.example"},
            "`hostname` is `smtp.custom.example`, the name of the",
        ),
        (
            {"hostname": "smtp.custom.example", "fallback": CUSTOM},
            "`hostname` is `smtp.custom.example`, the name of the provider of `fallback`",
        ),
        (
            {
                "hostname": "smtp.sendgrid.net",
                "routes": [{"name": "a", "preset": "sendgrid", "sender_domains": ["a.example"]}],
            },
            "`hostname` is `smtp.sendgrid.net`, the name of the provider of `routes[0]`",
        ),
        (
            {"fallback": {"preset": "postmark", "upstream": {"port": 25}}, "upstream": {"port": 465}},
            "`fallback.upstream.port` is 25, which begins TLS with STARTTLS, but port 465 of the provider",
        ),
        ({"fallback": {"preset": "ses"}}, "`fallback.region` is missing"),
        ({"fallback": {**SES}}, "which fails when the first does"),
        ({"fallback": {**SES, "secret": "relay/other"}}, "which fails when the first does"),
        (
            {"routes": [{"name": "a", "preset": "postmark"}]},
            "needs either `sender_domains` or `recipient_domains`",
        ),
        (
            {
                "routes": [
                    {"name": n, "preset": "postmark", "sender_domains": ["a.example"]} for n in ("a", "b")
                ]
            },
            "`routes[1].sender_domains[0]` is `a.example`, which route `a` has already",
        ),
        (
            {
                "routes": [
                    {"name": "a", "preset": "postmark", "sender_domains": [f"{n}.example"]} for n in "bc"
                ]
            },
            "`routes[1].name` is `a`, as an earlier route",
        ),
        (
            {"routes": [{"name": "primary", "preset": "postmark", "sender_domains": ["a.example"]}]},
            "other than `primary`",
        ),
        ({"warm_up": {"preset": "postmark"}}, "`warm_up` needs either `percent` or `steps`"),
        ({"warm_up": {"preset": "postmark", "percent": 100}}, "expected 99 or less"),
        (
            {"warm_up": {"preset": "postmark", "steps": [{"date": "2026-12-08", "percent": 5}] * 2}},
            "`warm_up.steps[1].date` is 2026-12-08, not after the step before it",
        ),
        ({"warm_up": {"preset": "postmark", "steps": [{"date": "soon", "percent": 5}]}}, "a date such as"),
        # Hygiene, bounces, DKIM
        ({"hygiene": {"configuration_set": "a b"}}, "expected letters, digits, `_` and `-`, 64 at most"),
        ({"hygiene": {"configuration_set": "h" * 65}}, "64 at most"),
        ({"preset": "postmark", "hygiene": {"tags": {"a": "b"}}}, "`hygiene.tags` is for SES alone"),
        ({"hygiene": {"tags": {"a": "b, c=d"}}}, "expected letters, digits and `_.@-`"),
        ({"hygiene": {"strip_headers": ["Subject"]}}, "expected a header that a message can do without"),
        ({"hygiene": {"strip_headers": ["Received"]}}, "use `hygiene.strip_received`"),
        ({"hygiene": {"strip_headers": ["X Y"]}}, "expected the name of a header without the colon"),
        ({"hygiene": {"strip_headers": ["X" * 65]}}, "64 characters at most"),
        ({"hygiene": {"set_headers": {"X-Tag": "a\nBcc: b@example.com"}}}, "expected one line of ASCII text"),
        (
            {"hygiene": {"set_headers": {"From": "a@example.com"}}},
            "expected a header that the message does not",
        ),
        (
            {"hygiene": {"tags": {"a": "b"}, "set_headers": {"X-SES-Message-Tags": "c=d"}}},
            "`hygiene.set_headers.X-SES-Message-Tags` is set twice",
        ),
        ({"hygiene": {"sender_rewrite": {"address": "relay"}}}, "expected a mail address"),
        ({"dsn": {"sender": "a@example.com"}}, "`sender` is set but `address` is not"),
        ({"dsn": {"from_clients": "rewrite"}}, "`from_clients` is `rewrite` but `address`"),
        ({"dsn": {"from_clients": "drop"}}, "`dsn.from_clients` is `drop`, expected `reject`"),
        (
            {"access": {"senders": {"rules": [{"pattern": "<>", "kind": "exact", "action": "allow"}]}}},
            "`access.senders.rules[0]` is about `<>`, but `dsn.from_clients: reject` refuses it",
        ),
        (
            {
                "access": {"senders": {"rules": [{"pattern": "<>", "kind": "exact", "action": "reject"}]}},
                "dsn": {"address": "a@example.com", "from_clients": "rewrite"},
            },
            "`dsn.from_clients: rewrite` sends it from another sender",
        ),
        ({"dsn": {"classes": ["everything"]}}, "`dsn.classes[0]` is `everything`, expected `bounce`"),
        (
            {"dkim": {"keys": [_dkim_key(selector="s1"), _dkim_key(selector="s2")]}},
            "`dkim.keys[1].domain` is `a.example`, which an earlier key signs",
        ),
        (
            {"preset": "gmail", "region": None, "fallback": {"preset": "microsoft365"}},
            "`fallback` logs in to Gmail with a password, and the other provider with OAuth",
        ),
        (
            {"preset": "microsoft365", "region": None, "fallback": {"preset": "gmail"}},
            "Set `fallback.auth: xoauth2`, or use another provider",
        ),
        ({"dkim": {"keys": []}}, "`dkim.keys` is a list, expected at least one entry"),
        ({"dkim": {"keys": [_dkim_key(selector="a b")]}}, "expected a DKIM selector such as `relay2026`"),
        ({"dkim": {"keys": [_dkim_key(secret="relay/ses")]}}, "is the provider's own secret"),
        (
            {"dkim": {"keys": [_dkim_key(secret="relay/tls")]}, "submission": {"secret": "relay/tls"}},
            "`dkim.keys[0].secret` is the submission port's own secret",
        ),
        (
            {
                "dkim": {"keys": [_dkim_key()]},
                "hygiene": {"sender_rewrite": {"address": "me@gmail.example", "keep": ["b.example"]}},
            },
            "`dkim.keys[0].domain` is `a.example`, but `hygiene.sender_rewrite` replaces every sender",
        ),
        (
            {"dkim": {"keys": [_dkim_key()], "signer_down": "bounce"}},
            "`dkim.signer_down` is `bounce`, expected `defer` or `send_unsigned`",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(keys: dict[str, Any], message: str) -> None:
    assert message in problems(**keys)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("smtp_tls_security_level", "Remove the line"),
        ("smtp_tls_CAfile", "Remove the line"),
        ("smtp_sasl_password_maps", "Use `secret`"),
        ("mynetworks", "Use `networks`"),
        ("smtpd_relay_restrictions", "Use `access`"),
        ("smtpd_recipient_restrictions", "Use `access`"),
        ("mydestination", "Remove the line"),
        ("relayhost", "Use `upstream.host`"),
        ("smtp_fallback_relay", "Use `fallback`"),
        ("transport_maps", "Use `routes`"),
        ("sender_dependent_relayhost_maps", "Use `routes`"),
        ("message_size_limit", "Use `message_bytes`"),
        ("smtp_connection_reuse_count_limit", "Use `delivery.messages_per_connection`"),
        ("smtpd_client_event_limit_exceptions", "Use `clients`"),
        ("smtp_reply_filter", "Remove the line"),
        ("soft_bounce", "Remove the line"),
        ("inet_interfaces", "Remove the line"),
        ("debug_peer_list", "Remove the line"),
        ("notify_classes", "Use `dsn`"),
        ("smtpd_command_filter", "Use `dsn`"),
        ("smtpd_milters", "Use `dkim`"),
        ("smtpd_milter_maps", "Use `dkim`"),
        ("receive_override_options", "Remove the line"),
        ("content_filter", "Remove the line"),
        ("smtpd_proxy_filter", "Remove the line"),
        ("smtpd_forbid_bare_newline", "Remove the line"),
        ("queue_directory", "Remove the line"),
        ("myhostname", "Use `hostname`"),
    ],
)
def test_a_parameter_that_would_break_a_promise_is_refused(name: str, key: str) -> None:
    text = problems(main_cf={name: "something"})
    assert f"`main_cf.{name}` may not be set: " in text
    assert key in text
    assert "something" not in text


@pytest.mark.parametrize(
    "name",
    [
        "smtpd_banner",
        "append_dot_mydomain",
        "smtp_helo_timeout",
        "biff",
        "smtpd_timeout",
        "smtpd_forbid_bare_newline_exclusions",
    ],
)
def test_other_parameters_may_be_set(name: str) -> None:
    assert config(main_cf={name: "x"}).main_cf == {name: "x"}


@pytest.mark.parametrize(("name", "value"), [("a b", "x"), ("a", "x\nmynetworks = 0.0.0.0/0"), ("1a", "x")])
def test_a_parameter_cannot_bring_in_another_one(name: str, value: str) -> None:
    assert "main_cf." in problems(main_cf={name: value})

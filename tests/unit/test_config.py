"""What a configuration says: hosts, limits, names, and what follows from them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from builder.config.hygiene import CLIENT_HEADERS
from builder.config.routing import WarmUp, WarmUpStep
from tests.unit.relay_yaml import config, problems


@pytest.mark.parametrize(
    "network",
    [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "100.64.0.0/10",
        "192.0.2.0/24",
        "203.0.0.0/16",
        "fd00::/8",
        "2001:db8::/32",
    ],
)
def test_private_and_narrow_networks_are_accepted(network: str) -> None:
    assert config(networks=[network]).networks == (network,)


def test_a_wide_network_needs_the_override() -> None:
    assert config(networks=["0.0.0.0/0"], allow_any_network=True).networks == ("0.0.0.0/0",)


def test_a_single_address_becomes_a_network() -> None:
    assert config(networks=["10.1.2.3", "2001:db8::1"]).networks == ("10.1.2.3/32", "2001:db8::1/128")


def test_a_vpc_endpoint_replaces_the_host_of_ses() -> None:
    host = "vpce-0123456789abcdef0-abcdefgh.email-smtp.us-east-1.vpce.amazonaws.com"
    assert config(upstream={"host": host}).upstream_host == host


@pytest.mark.parametrize(
    ("upstream", "tls"),
    [
        ({}, "starttls"),
        ({"port": 465}, "implicit"),
        ({"port": 10587}, "starttls"),
        ({"port": 10465, "tls": "implicit"}, "implicit"),
    ],
)
def test_custom_takes_any_port_and_how_tls_begins(upstream: dict[str, Any], tls: str) -> None:
    custom = config(preset="custom", region=None, upstream={"host": "smtp.example.com", **upstream})
    assert custom.upstream_tls == tls


def test_region_of_secrets_manager_is_that_of_ses_unless_said_otherwise() -> None:
    assert config().aws_region == "us-east-1"
    assert config(secret_region="eu-west-1").aws_region == "eu-west-1"
    assert config(preset="mailgun", region="eu").aws_region is None
    assert config(preset="gmail", region="us-east-1").aws_region == "us-east-1"


ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:relay/ses-AbCdEf"


def test_a_secret_that_is_given_by_its_arn_has_its_own_region() -> None:
    assert config(secret=ARN).aws_region == "eu-west-1"
    assert config(secret=ARN, secret_region="eu-west-1").aws_region == "eu-west-1"
    # That of another secret says nothing about the names.
    assert config(submission={"secret": ARN}).aws_region == "us-east-1"


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"secret": ARN}, "secret"),
        ({"fallback": {"preset": "sendgrid", "secret": ARN}}, "fallback.secret"),
        ({"submission": {"secret": ARN}}, "submission.secret"),
        (
            {"dkim": {"keys": [{"domain": "a.example", "selector": "a", "secret": ARN}]}},
            "dkim.keys[0].secret",
        ),
    ],
)
def test_a_region_that_contradicts_a_secrets_arn_is_refused(keys: dict[str, Any], key: str) -> None:
    said = problems(secret_region="us-east-1", **keys)
    assert f"`secret_region` is `us-east-1`, but `{key}` is in `eu-west-1`, as its ARN says" in said
    assert "Remove the line" in said


def test_an_arn_without_an_aws_region_is_none() -> None:
    assert "expected the name of a secret" in problems(secret=ARN.replace("eu-west-1", "europe"))


def test_size_limit_is_the_smallest_of_all_providers() -> None:
    assert config().size_limit == 40_000_000
    assert config(fallback={"preset": "postmark"}).size_limit == 10_000_000
    assert config(message_bytes=5_000_000).size_limit == 5_000_000
    assert config(preset="smtp2go", region=None).size_limit == 10_240_000


def test_an_unofficial_or_advised_limit_may_be_exceeded() -> None:
    assert config(preset="sendgrid", region=None, message_bytes=30_000_000).size_limit == 30_000_000
    assert config(preset="gmail", region=None, message_bytes=35_000_000).size_limit == 35_000_000


def test_delivery_of_relay_yaml_stands_before_the_presets() -> None:
    chosen = config(delivery={"concurrency": 5, "messages_per_connection": 200}).delivery_choice
    assert (chosen.concurrency, chosen.initial_concurrency, chosen.messages_per_connection) == (5, 5, 200)
    assert chosen.queue_lifetime_hours == 120


def test_recipients_in_one_transaction_are_what_every_provider_takes() -> None:
    assert config().recipients_per_delivery == 50
    assert config(delivery={"recipients_per_delivery": 20}).recipients_per_delivery == 20


def test_mail_domain_is_the_parent_of_the_host_name() -> None:
    assert config(hostname="relay.mail.example.com").mail_domain == "mail.example.com"
    assert config(domain="example.org").mail_domain == "example.org"


def test_every_upstream_has_a_name_and_a_secret() -> None:
    several = config(
        fallback={"preset": "sendgrid"},
        warm_up={"preset": "postmark", "percent": 10},
        routes=[
            {"name": "news", "preset": "mailgun", "region": "eu", "sender_domains": ["News.Example.com"]}
        ],
    )
    assert [(name, choice.secret_name) for name, choice in several.upstreams()] == [
        ("primary", "relay/ses"),
        ("fallback", "relay/sendgrid"),
        ("warm-up", "relay/postmark"),
        ("news", "relay/mailgun"),
    ]
    assert several.routes[0].sender_domains == ("news.example.com",)


def test_login_kind_selects_the_shapes_of_the_secret() -> None:
    gmail = config(preset="gmail", region=None)
    assert (gmail.auth_kind, [shape.name for shape in gmail.secret_shapes]) == ("password", ["app_password"])
    oauth = config(preset="gmail", region=None, auth="xoauth2")
    assert [shape.grant for shape in oauth.secret_shapes] == ["refresh_token"]
    assert (gmail.mechanisms, oauth.mechanisms) == (("plain", "login"), ("xoauth2",))
    assert config(preset="microsoft365", region=None).auth_kind == "xoauth2"


def test_warm_up_grows_by_date() -> None:
    plan = WarmUp(
        preset="postmark",
        steps=(
            WarmUpStep(date=dt.date(2026, 12, 1), percent=5),
            WarmUpStep(date=dt.date(2026, 12, 8), percent=25),
        ),
    )
    days = [dt.date(2026, 11, 30), dt.date(2026, 12, 1), dt.date(2026, 12, 7), dt.date(2027, 1, 1)]
    assert [plan.percent_on(day) for day in days] == [0, 5, 5, 25]
    assert WarmUp(preset="postmark", percent=10).percent_on(days[0]) == 10


def test_headers_that_are_set_are_first_removed() -> None:
    hygiene = config(
        hygiene={
            "strip_client_headers": True,
            "strip_headers": ["X-Own"],
            "configuration_set": "relay",
            "tags": {"app": "shop", "stage": "prod"},
            "set_headers": {"X-Tag": "a"},
        }
    ).hygiene
    assert hygiene.added_headers == {
        "X-Tag": "a",
        "X-SES-CONFIGURATION-SET": "relay",
        "X-SES-MESSAGE-TAGS": "app=shop, stage=prod",
    }
    assert hygiene.removed_headers == (*CLIENT_HEADERS, "X-Own", *hygiene.added_headers)


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().preset = "gmail"  # type: ignore[misc]

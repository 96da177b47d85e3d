"""A test message keeps to the access rules, so that a good image does not fail for having some."""

from __future__ import annotations

from typing import Any

import pytest

from builder.config import RelayConfig
from builder.errors import BuilderError
from builder.verify.probe import RECIPIENT, SENDER, choose_addresses, sender_at_provider

CLIENT = "10.0.2.2"


def _config(**changes: Any) -> RelayConfig:
    return RelayConfig.model_validate({"preset": "ses", "region": "us-east-1", **changes})


def _rule(pattern: str, kind: str, action: str) -> dict[str, str]:
    return {"pattern": pattern, "kind": kind, "action": action}


def _choose(**access: Any) -> tuple[str, str]:
    return choose_addresses(_config(access=access), CLIENT)


def test_without_rules_the_usual_addresses_are_used() -> None:
    assert choose_addresses(_config(), CLIENT) == (SENDER, RECIPIENT)


@pytest.mark.parametrize("action", ["reject", "hold", "discard"])
def test_a_rule_against_the_usual_sender_is_evaded(action: str) -> None:
    sender, _recipient = _choose(senders={"rules": [_rule("example.com", "domain", action)]})
    assert not sender.endswith("example.com")


def test_a_list_of_who_may_send_is_kept_to() -> None:
    rules = [_rule("a@corp.example", "exact", "reject"), _rule("b@corp.example", "exact", "allow")]
    assert _choose(senders={"rules": rules, "otherwise": "reject"})[0] == "b@corp.example"


def test_an_allowed_domain_gives_an_address_in_it() -> None:
    rules = [_rule(".corp.example", "domain", "allow")]
    assert _choose(recipients={"rules": rules, "otherwise": "reject"})[1] == "relay-probe@mail.corp.example"


def test_a_posix_class_in_a_rule_is_understood() -> None:
    rules = [_rule("^[[:alpha:]]+@example\\.com$", "regexp", "reject")]
    assert _choose(senders={"rules": rules})[0] != SENDER


def test_the_narrowest_network_decides_as_which_domain_to_send() -> None:
    domains = [
        {"networks": ["10.0.0.0/8"], "domains": ["wide.example"]},
        {"networks": ["10.0.2.0/24"], "domains": ["narrow.example"]},
        {"networks": ["192.168.0.0/16"], "domains": ["other.example"]},
    ]
    assert _choose(sender_domains=domains)[0] == "relay-probe@narrow.example"


def test_routes_are_evaded_so_that_the_first_provider_gets_it() -> None:
    sendgrid = {"preset": "sendgrid"}
    config = _config(
        routes=[
            {"name": "by-sender", "sender_domains": ["example.com"], **sendgrid},
            {
                "name": "by-recipient",
                "recipient_domains": ["example.net"],
                "preset": "mailgun",
                "region": "us",
            },
        ]
    )
    assert choose_addresses(config, CLIENT) == ("relay-probe@verify.example", "relay-probe@verify.example")


def test_rules_that_name_no_address_are_an_error_that_says_what_to_add() -> None:
    rules = [_rule("^[0-9]{9}@", "regexp", "allow")]
    with pytest.raises(BuilderError, match="`access.senders` allows no address") as caught:
        _choose(senders={"rules": rules, "otherwise": "reject"})
    assert "--verify none" in str(caught.value.hint)


def test_the_provider_sees_the_rewritten_sender_unless_its_domain_is_kept() -> None:
    config = _config(hygiene={"sender_rewrite": {"address": "me@gmail.example", "keep": ["ours.example"]}})
    assert sender_at_provider(config, "root@host.internal") == "me@gmail.example"
    assert sender_at_provider(config, "app@mail.ours.example") == "app@mail.ours.example"


def test_a_domain_that_is_signed_is_sent_from() -> None:
    key = {"domain": "ours.example", "selector": "s1", "secret": "relay/dkim"}
    assert choose_addresses(_config(dkim={"keys": [key]}), CLIENT)[0] == "relay-probe@ours.example"

"""Access rules of relay.yaml: each can decide, and matches what it says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from builder.config.policy import AccessRule
from tests.unit.relay_yaml import config, problems, rules


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"access": {"senders": {"otherwise": "deny"}}}, "is `deny`, expected `allow` or `reject`"),
        (
            {"access": {"sender_domains": [{"networks": ["192.0.2.0/24"], "domains": ["example.com"]}]}},
            "`access.sender_domains[0].networks[0]` is `192.0.2.0/24`, which is not inside `networks`",
        ),
        (
            {"access": {"sender_domains": [{"networks": ["10.0.0.0/8"], "domains": []}]}},
            "`access.sender_domains[0].domains` is a list, expected at least one entry",
        ),
        (
            {"access": {"sender_domains": [{"networks": ["10.0.0.0/8"], "domains": ["a.example"]}] * 2}},
            "which an earlier entry has too",
        ),
        (
            {
                "access": {
                    "recipients": {
                        "rules": [{"kind": "domain", "pattern": "a.example", "action": "hold"}] * 2
                    }
                }
            },
            "`access.recipients.rules[1]` has the pattern of an earlier rule",
        ),
        (
            rules("senders", ("exact", "a@b.example", "hold"), ("exact", "A@B.example", "reject")),
            "`access.senders.rules[1]` has the pattern of an earlier rule",
        ),
        (
            rules("senders", ("regexp", r"^app\.x@\W", "hold"), ("regexp", r"^APP\.x@\W", "reject")),
            "`access.senders.rules[1]` has the pattern of an earlier rule",
        ),
        (
            rules("senders", ("domain", "b.example", "reject"), ("exact", "a@x.B.example", "allow")),
            "`access.senders.rules[1]` never decides: `b.example` before it matches whatever it matches",
        ),
        (
            rules("senders", ("domain", ".b.example", "reject"), ("domain", "x.b.example", "allow")),
            "`access.senders.rules[1]` never decides: `.b.example`",
        ),
        (
            rules("senders", ("regexp", ".*", "reject"), ("exact", "<>", "allow")),
            "`access.senders.rules[1]` never decides: `.*`",
        ),
        (rules("recipients", ("exact", "<>", "reject")), "is for `<>`, which no recipient is"),
        (
            rules("senders", ("exact", "b@b.example", "reject"), otherwise="reject"),
            "`access.senders.otherwise` is `reject`, but no rule allows anything",
        ),
        (
            {"access": {"recipients": {"otherwise": "reject"}}},
            "`access.recipients.otherwise` is `reject`, but no rule allows anything",
        ),
        (
            {"dsn": {"address": "ops@a.example", "classes": []}},
            "`dsn.classes` is empty, so nothing is ever sent to `address`",
        ),
        (
            {
                "dsn": {"address": "ops@x.a.example"},
                **rules("recipients", ("domain", "a.example", "discard")),
            },
            "`dsn.address` is `ops@x.a.example`, whose mail `access.recipients.rules[0]` discards",
        ),
    ],
)
def test_a_rule_that_cannot_work_is_refused(keys: dict[str, Any], message: str) -> None:
    assert message in problems(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        # A later rule that an earlier one does not hold whole.
        rules("senders", ("domain", ".b.example", "hold"), ("domain", "b.example", "reject")),
        rules("senders", ("domain", "b.example", "hold"), ("exact", "a@badb.example", "reject")),
        rules("senders", ("exact", "a@b.example", "hold"), ("domain", "b.example", "reject")),
        rules("senders", ("domain", "b.example", "hold"), ("exact", "<>", "reject")),
        rules("senders", ("regexp", r"a\w@", "hold"), ("regexp", r"a\W@", "reject")),
        rules("senders", ("exact", "a@b.example", "hold"), otherwise="reject"),
        {
            "dsn": {"address": "ops@a.example"},
            **rules("recipients", ("exact", "ops@a.example", "allow"), ("domain", "a.example", "discard")),
        },
        {"dsn": {"address": "ops@a.example"}, **rules("recipients", ("domain", "a.example", "reject"))},
    ],
)
def test_what_can_work_is_accepted(keys: dict[str, Any]) -> None:
    assert config(**keys).upstream_host


@pytest.mark.parametrize(
    ("kind", "pattern", "yes", "no"),
    [
        (
            "exact",
            "a.b+c@example.com",
            ["a.b+c@example.com", "A.B+C@EXAMPLE.COM"],
            ["aXb+c@example.com", "xa.b+c@example.com"],
        ),
        ("exact", "<>", ["<>"], ["a@example.com"]),
        (
            "domain",
            "example.com",
            ["a@example.com", "a@b.example.com"],
            ["a@badexample.com", "a@example.com.evil.org"],
        ),
        ("domain", ".example.com", ["a@b.example.com", "a@b.c.example.com"], ["a@example.com"]),
        ("regexp", "^bounce-[0-9]+@", ["bounce-12@example.com"], ["bounce-@example.com"]),
    ],
)
def test_a_rule_matches_what_it_says(kind: str, pattern: str, yes: list[str], no: list[str]) -> None:
    rule = AccessRule.model_validate({"kind": kind, "pattern": pattern, "action": "reject"})
    assert all(re.search(rule.ere, address, re.IGNORECASE) for address in yes)
    assert not any(re.search(rule.ere, address, re.IGNORECASE) for address in no)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        ("exact", "example.com"),
        ("exact", "a@b"),
        ("exact", "<a@x.example"),
        ("exact", "<a@x.example>"),
        ("exact", "a(b)@x.example"),
        ("domain", "a@example.com"),
        ("domain", "*"),
        ("regexp", "("),
        ("regexp", r"\d+"),
        ("regexp", "a\nb"),
        ("regexp", "a{"),
        ("regexp", "[[.hyphen.]]"),
        ("regexp", r"\x41"),
    ],
)
def test_a_pattern_that_does_not_fit_its_kind_is_refused(kind: str, pattern: str) -> None:
    rule = {"kind": kind, "pattern": pattern, "action": "reject"}
    assert f"`access.senders.rules[0]` is wrong: `pattern` of kind `{kind}`" in problems(
        access={"senders": {"rules": [rule]}}
    )


def test_the_text_of_a_rule_is_one_line() -> None:
    rule = {"kind": "domain", "pattern": "a.example", "action": "reject", "text": "no\n/x/ OK"}
    assert "expected one line of ASCII text" in problems(access={"senders": {"rules": [rule]}})

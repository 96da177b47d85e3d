"""What must fit together about senders in relay.yaml: replaced ones, and the null sender."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rendered import config_of
from tests.unit.relay_yaml import problems

REWRITE = {"sender_rewrite": {"address": "account@ours.example", "keep": ["kept.example"]}}
INSTEAD = {"address": "ops@a.example", "from_clients": "rewrite"}


def _route(domain: str) -> dict[str, Any]:
    return {"name": "news", "preset": "sendgrid", "sender_domains": [domain]}


def _rule(pattern: str, kind: str, action: str) -> dict[str, str]:
    return {"pattern": pattern, "kind": kind, "action": action}


def test_a_route_by_sender_that_sender_rewrite_leaves_no_mail_is_refused() -> None:
    message = problems(hygiene=REWRITE, routes=[_route("news.example")])
    assert (
        "`routes[0].sender_domains[0]` is `news.example`, but `hygiene.sender_rewrite` replaces every sender"
        in message
    )
    assert "Add the domain to `hygiene.sender_rewrite.keep`, or remove the route" in message


@pytest.mark.parametrize("domain", ["kept.example", "below.kept.example", "x.example", "ours.example"])
def test_a_route_by_sender_that_some_mail_has_after_the_rewriting_is_taken(domain: str) -> None:
    rewrite = {"sender_rewrite": {"address": "account@ours.example", "keep": ["kept.example", "a.x.example"]}}
    assert config_of("ses", hygiene=rewrite, routes=[_route(domain)]).routes[0].sender_domains == (domain,)


def test_the_envelope_is_replaced_also_where_the_from_header_stays() -> None:
    rewrite = {"sender_rewrite": {"address": "account@ours.example", "from_header": False}}
    assert "`routes[0].sender_domains[0]`" in problems(hygiene=rewrite, routes=[_route("news.example")])
    key = {"domain": "news.example", "selector": "a", "secret": "relay/dkim"}
    assert config_of("ses", hygiene=rewrite, dkim={"keys": [key]}).dkim is not None


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (
            {"senders": {"rules": [_rule("b.example", "domain", "allow")], "otherwise": "reject"}},
            "`dsn.from_clients` is `rewrite`, which sends mail from `<>` as `ops@a.example`, "
            "but no rule of `access.senders` allows that",
        ),
        (
            {"senders": {"rules": [_rule("a.example", "domain", "reject")]}},
            "`ops@a.example`, but `access.senders.rules[0]` rejects",
        ),
        (
            {"senders": {"rules": [_rule("^ops@", "regexp", "discard")]}},
            "`ops@a.example`, but `access.senders.rules[0]` discards",
        ),
        (
            {
                "sender_domains": [
                    {"networks": ["10.1.0.0/16"], "domains": ["a.example"]},
                    {"networks": ["10.2.0.0/16"], "domains": ["b.example"]},
                ]
            },
            "`access.sender_domains[1].domains` are without `a.example`, so mail from `<>` there, sent as "
            "`ops@a.example`, is refused",
        ),
    ],
)
def test_what_is_sent_in_place_of_the_null_sender_must_pass_the_relays_own_rules(
    access: dict[str, Any], message: str
) -> None:
    assert message in problems(dsn=INSTEAD, access=access)


@pytest.mark.parametrize(
    ("dsn", "access"),
    [
        (INSTEAD, {"senders": {"rules": [_rule("a.example", "domain", "allow")], "otherwise": "reject"}}),
        (
            INSTEAD,
            {
                "senders": {
                    "rules": [
                        _rule("ops@a.example", "exact", "allow"),
                        _rule("a.example", "domain", "reject"),
                    ]
                }
            },
        ),
        (INSTEAD, {"sender_domains": [{"networks": ["10.1.0.0/16"], "domains": ["a.example"]}]}),
        (
            {**INSTEAD, "sender": "ops@b.example"},
            {"sender_domains": [{"networks": ["10.1.0.0/16"], "domains": ["b.example"]}]},
        ),
        # Nothing is sent in its place.
        ({"address": "ops@a.example"}, {"senders": {"rules": [_rule("a.example", "domain", "reject")]}}),
    ],
    ids=["allowed", "allowed before", "of the network", "another sender", "refused"],
)
def test_a_replacement_that_passes_is_taken(dsn: dict[str, Any], access: dict[str, Any]) -> None:
    config = config_of("ses", networks=["10.0.0.0/8"], dsn=dsn, access=access)
    assert config.notice_sender == dsn.get("sender", "ops@a.example")

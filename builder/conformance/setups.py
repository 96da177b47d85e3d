"""The relays that the cases need: a configuration, the providers it names, and all of it started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.config.model import RelayConfig
from builder.conformance.local import LocalRelay
from builder.conformance.scene import Upstream
from builder.releases import Release
from builder.render import render
from builder.standin.provider import Provider

SES = "email-smtp.us-east-1.amazonaws.com"


@dataclass(frozen=True)
class Setup:
    """A configuration with the hosts of its providers; `implicit_tls` says which of their ports is used."""

    config: Mapping[str, Any]
    hosts: tuple[str, ...] = (SES,)
    accounts: tuple[str, ...] = ()
    """Further accounts at the first host, by their names in the password map."""
    implicit_tls: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What the harness adds to main.cf."""
    mechanisms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """How one may log in at a host, where that is not PLAIN and LOGIN."""


_SES = {"preset": "ses", "region": "us-east-1"}
_EU = "email-smtp.eu-west-1.amazonaws.com"
_ROUTED = {
    **_SES,
    "routes": [
        {"name": "news", "preset": "sendgrid", "sender_domains": ["news.example"]},
        {"name": "partner", "preset": "mailgun", "region": "us", "recipient_domains": ["partner.example"]},
    ],
}
_ROUTED_HOSTS = (SES, "smtp.sendgrid.net", "smtp.mailgun.org")


def _rule(pattern: str, kind: str, action: str, **text: str) -> dict[str, str]:
    return {"pattern": pattern, "kind": kind, "action": action, **text}


# Not in SETUPS: it needs a C compiler.
OAUTH = Setup(
    {"preset": "gmail", "auth": "xoauth2", "fallback": {"preset": "ses", "region": "us-east-1"}},
    hosts=("smtp.gmail.com", SES),
    mechanisms={"smtp.gmail.com": ("LOGIN", "PLAIN", "XOAUTH2")},
)

SETUPS: Mapping[str, Setup] = {
    "plain": Setup(_SES),
    "implicit-tls": Setup({**_SES, "upstream": {"port": 465}}, implicit_tls=True),
    "fallback": Setup({**_SES, "fallback": {"preset": "ses", "region": "eu-west-1"}}, hosts=(SES, _EU)),
    "routes": Setup(_ROUTED, hosts=_ROUTED_HOSTS),
    "notices": Setup(
        {
            **_ROUTED,
            "dsn": {
                "address": "bounces@partner.example",
                "sender": "mailer@example.com",
                "from_clients": "rewrite",
            },
        },
        hosts=_ROUTED_HOSTS,
    ),
    "accounts": Setup(
        {
            **_SES,
            "routes": [
                {**_SES, "name": "news", "secret": "relay/news", "sender_domains": ["news.example"]},
            ],
        },
        accounts=("to-news",),
    ),
    "null-passed": Setup({**_SES, "dsn": {"from_clients": "pass"}}),
    "warm-up": Setup(
        {**_SES, "warm_up": {"preset": "ses", "region": "eu-west-1", "percent": 25}}, hosts=(SES, _EU)
    ),
    # A `$` wherever a value ends up in a result of a regexp table, where it would mean a group.
    "rules": Setup(
        {
            **_SES,
            "access": {
                "senders": {
                    "rules": [
                        _rule("good@evil.example", "exact", "allow"),
                        _rule("bad@example.com", "exact", "reject", text="you owe $5"),
                        _rule("evil.example", "domain", "reject"),
                        _rule("^x[0-9]+@example\\.org$", "regexp", "reject"),
                        _rule("hold@example.com", "exact", "hold"),
                    ]
                },
                "recipients": {
                    "rules": [
                        _rule("drop.example", "domain", "discard", text="$1 for all"),
                        _rule("blocked.example", "domain", "reject"),
                    ]
                },
                "sender_domains": [
                    {"networks": ["10.1.0.0/16"], "domains": ["office.example"]},
                    {"networks": ["10.1.9.0/24"], "domains": ["lab.example"]},
                ],
            },
        }
    ),
    # Newer Postfix counts by the real address, 127.0.0.1, whoever XCLIENT says it is; so a setup of
    # its own, in which each case sends no more than it counts.
    "limits": Setup({**_SES, "clients": {"messages_per_minute": 5, "exempt": ["10.99.0.0/16"]}}),
    "submission": Setup({**_SES, "submission": {"secret": "relay/users"}}),
    "hygiene": Setup(
        {
            **_SES,
            "hygiene": {
                "strip_received": True,
                "strip_client_headers": True,
                "strip_headers": ["X-Internal"],
                "set_headers": {"X-Relay": "yes", "X-Price$": "$5 off"},
                "configuration_set": "marketing",
                "tags": {"team": "ops", "kind": "bulk"},
            },
        }
    ),
    "dkim": Setup(
        {
            **_SES,
            "networks": ["10.0.0.0/8", "fd00::/8"],
            "dkim": {
                "keys": [
                    {"domain": "example.com", "selector": "relay2026", "secret": "relay/dkim"},
                    {"domain": "news.example.com", "selector": "n1", "secret": "relay/dkim-news"},
                ]
            },
            "hygiene": {
                "strip_received": True,
                "strip_client_headers": True,
                "set_headers": {"X-Relay": "yes"},
                "sender_rewrite": {
                    "address": "account@example.com",
                    "keep": ["example.com", "other.example"],
                },
            },
        }
    ),
    "rewrite": Setup(
        {
            **_SES,
            "hygiene": {"sender_rewrite": {"address": "account$1@gmail.example", "keep": ["ours.example"]}},
            "dsn": {"address": "bounces$1@example.com", "sender": "mailer$1@example.com"},
        }
    ),
}


@dataclass(frozen=True)
class Bed:
    """A running relay with its providers."""

    relay: LocalRelay
    upstreams: Sequence[Upstream]


@contextlib.contextmanager
def running(setup: Setup, release: Release, folder: Path, *, root: Path = Path("/")) -> Iterator[Bed]:
    """Start the providers and a private Postfix of a release; `root` is the tree that it is installed in."""
    config = RelayConfig.model_validate(dict(setup.config))
    with contextlib.ExitStack() as stack:
        upstreams = list(_upstreams(setup, folder / "ca"))
        for provider in dict.fromkeys(upstream.provider for upstream in upstreams):
            stack.enter_context(provider)
        relay = LocalRelay(
            render(config, release),
            folder / "relay",
            ports={
                up.host: up.provider.tls_port if setup.implicit_tls else up.provider.port for up in upstreams
            },
            ca_pem=upstreams[0].provider.ca_pem,
            root=root,
            parameters=setup.parameters,
        )
        yield Bed(stack.enter_context(relay), upstreams)


def _upstreams(setup: Setup, ca_folder: Path) -> Iterator[Upstream]:
    """Give every account with its provider, which is not started yet."""
    for number, host in enumerate(setup.hosts, start=1):
        users = {"": f"user{number}"}
        if number == 1:
            users |= {account: f"user-{account}" for account in setup.accounts}
        provider = Provider(
            users={user: f"password-{user}" for user in users.values()},
            host_names=(host,),
            ca_folder=ca_folder,
            mechanisms=setup.mechanisms.get(host, ("PLAIN", "LOGIN")),
        )
        for account, user in users.items():
            yield Upstream(host, user, f"password-{user}", provider, account)

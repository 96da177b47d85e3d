"""Who reaches the relay by relay.yaml: networks, submission, limits, the firewall."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.relay_yaml import CUSTOM, config, problems


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"networks": ["0.0.0.0/0"]}, "lets everybody relay without logging in"),
        ({"networks": ["::/0"]}, "lets everybody relay without logging in"),
        ({"networks": ["0.0.0.0/1"]}, "lets more than a /16 of the internet"),
        ({"networks": ["10.0.0.0/7"]}, "lets more than a /16"),
        ({"networks": ["2000::/3"]}, "lets more than a /16"),
        ({"networks": ["10.0.0.1/8"]}, "expected `10.0.0.0/8` for the whole network, or `10.0.0.1` for that"),
        ({"networks": ["fd00::1/8"]}, "expected `fd00::/8` for the whole network"),
        ({"networks": ["10.0.0/8"]}, "expected a network such as `10.0.0.0/8`"),
        ({"networks": ["example.com"]}, "expected a network such as"),
        ({"networks": []}, "`networks` is empty, so nobody may relay"),
        ({"networks": ["fe80::1%eth0"]}, "expected a network without the name of an interface (`%eth0`)"),
        ({"networks": ["::ffff:0:0/96"]}, "expected the IPv4 network itself, `0.0.0.0/0`"),
        ({"networks": ["::ffff:10.0.0.1"]}, "expected the IPv4 network itself, `10.0.0.1/32`"),
        ({"networks": ["224.0.0.0/4"]}, "expected addresses that a client can have"),
        ({"networks": ["ff02::1"]}, "expected addresses that a client can have"),
        ({"networks": ["255.255.255.255"]}, "expected addresses that a client can have"),
        ({"networks": ["0.0.0.0"]}, "expected addresses that a client can have; everybody is `0.0.0.0/0`"),
        ({"networks": ["::"]}, "expected addresses that a client can have; everybody is `::/0`"),
        # Submission, clients, firewall
        ({"networks": [], "submission": {"secret": "relay/users"}}, "`submission.networks` is missing"),
        (
            {"submission": {"secret": "relay/users", "networks": []}},
            "`submission.networks` is a list, expected at least one entry",
        ),
        (
            {"firewall": {"enabled": False}, "submission": {"secret": "relay/users", "networks": ["::/0"]}},
            "`submission.networks` has no effect while `firewall.enabled` is false",
        ),
        (
            {"firewall": {"enabled": False, "management_networks": ["10.0.0.0/8"]}},
            "`firewall.management_networks` has no effect while `firewall.enabled` is false",
        ),
        (
            {"firewall": {"management_ports": [], "management_networks": ["10.0.0.0/8"]}},
            "`firewall.management_ports` is empty, so there is nothing for `management_networks` to reach",
        ),
        (
            {
                "networks": ["10.0.0.0/8", "fd00::/8"],
                "clients": {"connections": 5, "exempt": ["10.0.0.0/9", "10.128.0.0/9", "fd00::/8"]},
            },
            "`clients.exempt` holds all of `networks`, so the limits are for nobody",
        ),
        ({"submission": {}}, "`submission.secret` is missing"),
        (
            {"submission": {"secret": "relay/users", "port": 25}},
            "`submission.port` is `25`, expected 587 or 465",
        ),
        ({"submission": {"secret": "relay/ses"}}, "the provider's own secret"),
        ({"clients": {"connections": 0}}, "expected 1 or more"),
        ({"clients": {"messages_per_minute": True}}, "expected a number"),
        (
            {"clients": {"exempt": ["192.0.2.1"]}},
            "`clients.exempt[0]` is `192.0.2.1/32`, which is not inside",
        ),
        ({"firewall": {"management_ports": [22, 25]}}, "`firewall.management_ports[1]` is 25, a mail port"),
    ],
)
def test_who_cannot_reach_the_relay_is_refused(keys: dict[str, Any], message: str) -> None:
    assert message in problems(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"networks": [], "submission": {"secret": "relay/users", "networks": ["0.0.0.0/0"]}},
        {"networks": [], "submission": {"secret": "relay/users"}, "firewall": {"enabled": False}},
        {"networks": ["::/0"], "allow_any_network": True},
        {"clients": {"connections": 5, "exempt": ["10.0.0.0/8"]}},
        {"firewall": {"management_ports": []}},
        {"firewall": {"management_networks": []}},
        {**CUSTOM, "delivery": {"recipients_per_delivery": 500}},
    ],
)
def test_what_can_work_is_accepted(keys: dict[str, Any]) -> None:
    assert config(**keys).upstream_host

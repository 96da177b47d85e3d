"""Tests of relay_agent.settings: both files, every mistake at once, nothing of a secret in a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from relay_agent import settings as config
from relay_agent.places import Places
from relay_agent.trouble import Trouble

from builder.config import boot_config
from tests.agent.relay_world import agent_json, make_places, upstream_json, write_json

CA = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n"


@pytest.fixture
def tree(tmp_path: Path) -> Places:
    return make_places(tmp_path)


def trouble_with(tree: Places, *, baked: dict[str, Any] | None = None, boot: Any = None) -> Trouble:
    write_json(tree.agent_json, baked if baked is not None else agent_json())
    if boot is not None:
        write_json(tree.boot_json, boot)
    with pytest.raises(Trouble) as caught:
        config.load(tree)
    return caught.value


def test_what_is_baked_is_enough(tree: Places) -> None:
    write_json(tree.agent_json, agent_json())
    settings = config.load(tree)
    assert settings.upstreams[0].secret == "relay/ses"
    assert settings.upstreams[0].shapes[0].derive == "ses_smtp_v4"
    assert settings.boot_networks == ()
    assert settings.networks == ("10.0.0.0/8",)
    config.require_secrets(settings)


def test_boot_json_is_laid_over_it(tree: Places) -> None:
    write_json(tree.agent_json, agent_json())
    boot = {
        "schema": 1,
        "secret": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:relay/ses-AbCdEf",
        "region": "eu-west-1",
        "hostname": "relay-1.example.com",
        "networks": ["192.0.2.0/24", "2001:db8::/32"],
        "endpoint": "http://10.0.2.2:5000",
        "imds_endpoint": "http://10.0.2.2:5001",
        "upstream": {"port": 2525, "ca_pem": CA},
    }
    write_json(tree.boot_json, boot)
    settings = config.load(tree)
    first = settings.upstreams[0]
    assert (settings.region, first.region) == ("eu-west-1", "us-east-1")
    assert (first.port, settings.baked_port, first.secret) == (2525, 587, boot["secret"])
    assert settings.boot_networks == ("192.0.2.0/24", "2001:db8::/32")
    assert settings.hostname == settings.boot_hostname == "relay-1.example.com"
    assert (settings.endpoint, settings.imds_endpoint) == (boot["endpoint"], boot["imds_endpoint"])
    assert settings.ca_pem == CA
    assert settings.unknown == ()


def test_a_later_builders_keys_are_named_and_not_refused(tree: Places) -> None:
    write_json(tree.agent_json, agent_json())
    write_json(tree.boot_json, {"schema": 1, "colour": "red", "upstream": {"weight": 1}})
    assert config.load(tree).unknown == ("colour", "upstream.weight")


def test_every_mistake_is_reported_at_once(tree: Places) -> None:
    boot = {
        "schema": 1,
        "region": "Ireland",
        "hostname": "relay 1\nmyorigin=evil",
        "networks": ["10.0.0.1/8"],
        "endpoint": "http://secrets.example.com",
        "upstream": {"port": 70000, "ca_pem": "-----BEGIN PRIVATE KEY-----"},
    }
    trouble = trouble_with(tree, boot=boot)
    assert trouble.code == "config-invalid"
    for key in ("region", "hostname", "networks", "endpoint", "upstream.port", "upstream.ca_pem"):
        assert f"`{key}`" in trouble.message
    assert "evil" not in trouble.message


def test_a_value_that_could_be_a_secret_is_not_repeated(tree: Places) -> None:
    trouble = trouble_with(tree, boot={"schema": 1, "networks": {"password": "hunter22"}})
    assert "hunter22" not in trouble.message


@pytest.mark.parametrize("endpoint", ["ftp://10.0.0.1", "https://user:pass@example.com", "http://8.8.8.8", 5])
def test_an_endpoint_that_would_show_the_secret_is_refused(tree: Places, endpoint: Any) -> None:
    assert "endpoint" in trouble_with(tree, boot={"schema": 1, "endpoint": endpoint}).message


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://vpce-1.secretsmanager.eu-west-1.vpce.amazonaws.com",
        "http://10.0.2.2:5000",
        "http://[fd00::1]:5000/",
        "http://localhost:5000",
    ],
)
def test_an_endpoint_that_the_builder_takes_is_taken(tree: Places, endpoint: str) -> None:
    boot = boot_config({"endpoint": endpoint, "imds_endpoint": endpoint, "region": "us-gov-east-1"})
    write_json(tree.agent_json, agent_json())
    write_json(tree.boot_json, boot.to_json_dict())
    settings = config.load(tree)
    assert (settings.endpoint, settings.imds_endpoint) == (endpoint, endpoint)
    assert settings.region == "us-gov-east-1"


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}'])
def test_a_file_that_is_not_ours_is_named(tree: Places, text: str) -> None:
    tree.agent_json.write_text(text)
    with pytest.raises(Trouble, match="/etc/relay/agent.json"):
        config.load(tree)


def test_two_upstreams_need_names_and_hosts_of_their_own(tree: Places) -> None:
    baked = agent_json(upstreams=[upstream_json(), upstream_json()])
    message = trouble_with(tree, baked=baked).message
    assert "same `name`" in message
    assert "same `host`" in message


def test_a_second_account_at_one_host_is_another_upstream(tree: Places) -> None:
    second = upstream_json(name="news", account="to-news", secret="relay/news")
    write_json(tree.agent_json, agent_json(upstreams=[upstream_json(), second]))
    settings = config.load(tree)
    assert [(each.host, each.key) for each in settings.upstreams] == [
        ("localhost", "localhost"),
        ("localhost", "to-news"),
    ]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"tls": "maybe"}, "upstreams[0].tls"),
        ({"port": "587"}, "upstreams[0].port"),
        ({"mechanisms": ["cram-md5"]}, "upstreams[0].mechanisms"),
        ({"host": "-bad"}, "upstreams[0].host"),
        ({"shapes": []}, "upstreams[0].shapes"),
        ({"shapes": [{"name": "x", "fields": [], "username": "", "password": "p"}]}, "shapes[0].fields"),
        (
            {"shapes": [{"name": "x", "fields": ["a"], "username": "u", "password": "p", "derive": "v9"}]},
            "derive",
        ),
    ],
)
def test_a_wrong_upstream_is_named_with_its_place(tree: Places, change: dict[str, Any], key: str) -> None:
    assert key in trouble_with(tree, baked=agent_json(upstreams=[upstream_json(**change)])).message


def test_an_image_without_its_file_was_not_baked_as_a_relay(tree: Places) -> None:
    with pytest.raises(Trouble, match="not baked as a relay"):
        config.load(tree)


def test_a_secret_must_be_named_somewhere(tree: Places) -> None:
    write_json(tree.agent_json, agent_json(upstreams=[upstream_json(secret=None)]))
    with pytest.raises(Trouble) as caught:
        config.require_secrets(config.load(tree))
    assert caught.value.code == "secret-unnamed"


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "198.0.0.0/8", "2000::/3"])
def test_launch_user_data_cannot_make_an_open_relay_by_mistake(tree: Places, network: str) -> None:
    boot: dict[str, Any] = {"schema": 1, "networks": ["10.0.0.0/8", network]}
    trouble = trouble_with(tree, boot=boot)
    assert trouble.code == "config-invalid"
    assert f"`networks` has {network}, which would let strangers relay" in trouble.message
    write_json(tree.boot_json, {**boot, "allow_any_network": True})
    assert config.load(tree).boot_networks == ("10.0.0.0/8", network)


@pytest.mark.parametrize("network", ["10.0.0.0/8", "100.64.0.0/10", "203.0.0.0/16", "fd00::/8"])
def test_ones_own_networks_are_taken_from_launch_user_data(tree: Places, network: str) -> None:
    write_json(tree.agent_json, agent_json())
    write_json(tree.boot_json, {"schema": 1, "networks": [network]})
    assert config.load(tree).boot_networks == (network,)


@pytest.mark.parametrize("network", ["fe80::1%eth0", "::ffff:10.0.0.0/104", "::ffff:0:0/96"])
def test_a_network_that_the_firewall_or_postfix_would_not_take_is_refused(tree: Places, network: str) -> None:
    message = trouble_with(tree, boot={"schema": 1, "networks": ["10.0.0.0/8", network]}).message
    assert "`networks` is" in message

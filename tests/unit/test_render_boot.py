"""What an instance is told at launch, and whether it fits where it is sent."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

import pytest
import yaml

from builder.config import boot_config, load_config
from builder.config.model import BootConfig
from builder.errors import BuilderError, ConfigError
from builder.releases import get_release
from builder.render import render, render_boot, user_data_as_sent
from tests.rendered import config_of, rendered


def _parsed(text: str) -> dict[str, Any]:
    assert text.startswith("#cloud-config\n")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_boot_json_is_written_as_given() -> None:
    boot = BootConfig(secret="relay/ses", region="eu-west-1", networks=("10.0.0.0/8",))
    entry = _parsed(render_boot(boot))["write_files"][0]
    assert entry["path"] == "/etc/relay/boot.json"
    assert json.loads(entry["content"]) == boot.to_json_dict()


@pytest.mark.parametrize(
    ("preset", "region", "named"), [("ses", "eu-west-1", "eu-west-1"), ("mailgun", "eu", None)]
)
def test_the_example_names_the_region_of_aws_only(preset: str, region: str, named: str | None) -> None:
    config = load_config(None, {"preset": preset, "region": region})
    entry = _parsed(render(config, get_release("debian-12"))["boot/user-data"])["write_files"][0]
    assert json.loads(entry["content"]).get("region") == named


@pytest.mark.parametrize(("given", "written"), [("4", 4), (4, 4), ("auto_scaling", "auto_scaling")])
def test_the_number_of_relays_is_told_as_a_number(given: Any, written: Any) -> None:
    entry = _parsed(render_boot(boot_config({"fleet_size": given})))["write_files"][0]
    assert json.loads(entry["content"]) == {"schema": 1, "fleet_size": written}


@pytest.mark.parametrize("given", ["0", "-4", "1.5", "many", "10001", "٤"])
def test_a_number_of_relays_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(BuilderError, match="`fleet_size` is .*, expected a whole number from 1 to 10000"):
        boot_config({"fleet_size": given})


def test_hosts_are_appended_and_kept() -> None:
    parsed = _parsed(render_boot(BootConfig(), hosts={"smtp.example.com": "10.0.2.2"}))
    assert parsed["write_files"][1] == {
        "path": "/etc/hosts",
        "append": True,
        "content": "10.0.2.2 smtp.example.com\n",
    }
    assert parsed["manage_etc_hosts"] is False


def test_keys_and_extra_settings_are_passed_on() -> None:
    text = render_boot(BootConfig(), ssh_authorized_keys=["ssh-ed25519 AAAA me"], extra={"timezone": "UTC"})
    assert _parsed(text)["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me"]
    assert _parsed(text)["timezone"] == "UTC"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hosts": {"a b\n127.0.0.1 evil": "10.0.0.1"}}, "not a host name"),
        ({"hosts": {"a.example": "10.0.0.1\n10.0.0.2 b"}}, "not an IP address"),
        ({"ssh_authorized_keys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]}, "private SSH key"),
        ({"ssh_authorized_keys": ["ssh-ed25519 A\nruncmd: [x]"]}, "line break"),
        ({"extra": {"write_files": []}}, "cannot be an extra key"),
        ({"extra": {"a: b\nc": 1}}, "cannot be an extra key"),
    ],
)
def test_what_would_break_out_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BuilderError, match=message):
        render_boot(BootConfig(), **arguments)


def test_an_instance_is_not_told_a_region_that_only_the_provider_knows() -> None:
    def boot(**more: Any) -> Any:
        files = rendered("mailgun", **more)
        return json.loads(_parsed(files["boot/user-data"])["write_files"][0]["content"])

    assert "region" not in boot()
    assert boot(secret_region="eu-west-1")["region"] == "eu-west-1"


ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:relay/ses-AbCdEf"


def test_the_files_of_an_instance_have_the_region_of_the_secrets_arn() -> None:
    files = rendered("ses", secret=ARN)
    boot = json.loads(_parsed(files["boot/user-data"])["write_files"][0]["content"])
    agent = json.loads(files["root/etc/relay/agent.json"])
    assert (boot["region"], agent["region"]) == ("eu-west-1", "eu-west-1")
    # The one that the password is derived for stays.
    assert agent["upstreams"][0]["region"] == "us-east-1"


def test_a_launch_in_another_region_than_that_of_the_secrets_arn_is_refused() -> None:
    with pytest.raises(ConfigError, match="`region` is `us-east-1`, but `secret` is in `eu-west-1`"):
        boot_config({"secret": ARN, "region": "us-east-1"})
    assert boot_config({"secret": ARN, "region": "eu-west-1"}).region == "eu-west-1"


def test_what_render_makes_for_an_instance_is_checked_as_sent() -> None:
    release = get_release("debian-12")
    many = tuple(f"10.{number // 256}.{number % 256}.0/24" for number in range(2000))
    packed = render(config_of("ses"), release, boot=BootConfig(networks=many))["boot/user-data"]
    assert len(packed) > 16384 >= len(user_data_as_sent(packed))
    noise = random.Random(1)  # noqa: S311  only to be incompressible
    scattered = tuple(f"10.{noise.randrange(256)}.{noise.randrange(256)}.{n % 256}" for n in range(8000))
    with pytest.raises(BuilderError, match="EC2 takes 16384") as caught:
        render(config_of("ses"), release, boot=BootConfig(networks=scattered))
    assert "`networks`" in str(caught.value.hint)


def test_short_user_data_is_sent_as_it_is() -> None:
    text = render_boot(BootConfig(secret="relay/ses"))
    assert user_data_as_sent(text) == text.encode()


def test_long_user_data_is_compressed() -> None:
    text = "#cloud-config\n" + "# the same line\n" * 2000
    sent = user_data_as_sent(text)
    assert len(sent) <= 16384
    assert gzip.decompress(sent).decode() == text
    assert sent == user_data_as_sent(text)


def test_too_long_user_data_says_how_long_and_what_to_do() -> None:
    noise = random.Random(1).randbytes(20_000).hex()  # noqa: S311  only to be incompressible
    with pytest.raises(BuilderError, match="EC2 takes 16384") as caught:
        user_data_as_sent(f"#cloud-config\n# {noise}\n")
    assert caught.value.hint is not None

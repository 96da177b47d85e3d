"""What `builder init` writes."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest

from builder.config import load_config
from builder.errors import BuilderError, ConfigError
from builder.init import relay_yaml, write_relay_yaml
from builder.presets import load_preset, preset_names


@pytest.fixture(params=preset_names())
def preset_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_loads_back_without_errors(tmp_path: Path, preset_name: str) -> None:
    file = tmp_path / "relay.yaml"
    write_relay_yaml(file, relay_yaml(preset_name))
    config = load_config(file)
    assert config.preset == preset_name
    assert config.hostname == "relay.example.com"
    assert config.secret_name == f"relay/{preset_name}"


def test_what_was_given_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    text = relay_yaml(
        "ses", region="eu-west-1", hostname="mail.example.org", networks=["10.9.0.0/16"], secret="prod/mail"
    )
    write_relay_yaml(file, text)
    config = load_config(file)
    assert (config.region, config.hostname) == ("eu-west-1", "mail.example.org")
    assert (config.networks, config.secret) == (("10.9.0.0/16",), "prod/mail")


def examples(text: str) -> dict[str, str]:
    """Return each commented key with its lines, as they read without the comment signs."""
    found = re.findall(r"(?m)^# (?=[a-z_]+:)((?:.*\n)(?:#  .*\n)*)", text)
    return {block.partition(":")[0]: re.sub(r"(?m)^# ", "", block) for block in found}


def test_every_commented_example_works_when_it_is_uncommented(tmp_path: Path, preset_name: str) -> None:
    text = relay_yaml(preset_name)
    known = examples(text)
    assert set(known) >= {"access", "clients", "delivery", "dsn", "fallback", "hygiene", "quota", "routes"}
    for key, example in known.items():
        if example.count("host:") > 1:
            example = re.sub(r"  host: .*\n", "", example, count=1)
        file = tmp_path / f"{key}.yaml"
        file.write_text(text + example)
        assert load_config(file).preset == preset_name


def test_the_steps_to_get_the_credential_are_in_it(preset_name: str) -> None:
    text = relay_yaml(preset_name)
    for line in load_preset(preset_name).get_credential.strip().splitlines():
        assert f"#   {line}".rstrip() in text


def test_no_line_is_too_long_to_read(preset_name: str) -> None:
    assert all(len(line) <= 140 for line in relay_yaml(preset_name).splitlines())


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text("mine\n")
    with pytest.raises(BuilderError, match="it is there already"):
        write_relay_yaml(file, "new\n")
    assert file.read_text() == "mine\n"


def test_a_dangling_link_is_not_followed(tmp_path: Path) -> None:
    file, elsewhere = tmp_path / "relay.yaml", tmp_path / "elsewhere"
    file.symlink_to(elsewhere)
    with pytest.raises(BuilderError):
        write_relay_yaml(file, "new\n")
    assert not elsewhere.exists()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match="No such file or directory"):
        write_relay_yaml(tmp_path / "no" / "relay.yaml", "new\n")


def test_a_wrong_value_is_refused_before_anything_is_written() -> None:
    with pytest.raises(ConfigError, match="`networks\\[0\\]` is `10.0.0.1/8`"):
        relay_yaml("ses", networks=["10.0.0.1/8"])
    with pytest.raises(BuilderError, match="There is no preset `sess`"):
        relay_yaml("sess")


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path: Path) -> None:
    file = tmp_path / "relay.yaml"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(BuilderError, match="`.*relay.yaml` was not written: File too large"):
            write_relay_yaml(file, relay_yaml("ses"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not file.exists()

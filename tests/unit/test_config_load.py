"""Reading relay.yaml: every mistake at once, with key, line, found, expected and nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.config import RelayConfig, boot_config, load_config
from builder.errors import ConfigError
from builder.presets import preset_names

BASE = "preset: ses\nregion: us-east-1\n"


@pytest.fixture
def relay_yaml(tmp_path: Path) -> Path:
    return tmp_path / "relay.yaml"


def refused(file: Path, text: str | bytes) -> ConfigError:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    return raised.value


def test_a_preset_and_a_region_are_enough(relay_yaml: Path) -> None:
    relay_yaml.write_text(BASE)
    config = load_config(relay_yaml)
    assert config.upstream_host == "email-smtp.us-east-1.amazonaws.com"
    assert (config.upstream_port, config.upstream_tls) == (587, "starttls")
    assert config.secret_name == "relay/ses"
    assert config.networks == ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    assert config.size_limit == 40_000_000


def test_flags_alone_are_enough() -> None:
    config = load_config(None, {"preset": "ses", "region": "eu-west-1", "hostname": None})
    assert config.upstream_host == "email-smtp.eu-west-1.amazonaws.com"


def test_flags_win_over_the_file_and_a_dotted_one_keeps_its_neighbours(relay_yaml: Path) -> None:
    relay_yaml.write_text("preset: custom\nupstream: {host: smtp.example.com, port: 587}\n")
    config = load_config(relay_yaml, {"upstream.port": 465, "hostname": "relay.example.org"})
    assert (config.upstream_host, config.upstream_port, config.upstream_tls) == (
        "smtp.example.com",
        465,
        "implicit",
    )
    assert config.hostname == "relay.example.org"


def test_flags_are_left_as_they_were() -> None:
    flags = {"preset": "ses", "region": "us-east-1", "upstream": {"port": 1}, "networks": ["x", "10.0.0.0/8"]}
    with pytest.raises(ConfigError):
        load_config(None, flags)
    assert (flags["upstream"], flags["networks"]) == ({"port": 1}, ["x", "10.0.0.0/8"])


def test_a_wrong_flag_says_that_it_is_from_the_command_line(relay_yaml: Path) -> None:
    relay_yaml.write_text(BASE)
    with pytest.raises(ConfigError, match=r"`hostname` is `x`, .* \(from the command line\)"):
        load_config(relay_yaml, {"hostname": "x"})


def test_wrong_port_reads_as_in_the_style_guide(relay_yaml: Path) -> None:
    error = refused(relay_yaml, BASE + "upstream:\n  port: 2525\n")
    assert "`upstream.port` is 2525, but preset `ses` accepts 25, 587, 2587, 465 or 2465 (line 4)" in str(
        error
    )
    assert error.hint == "Remove the line to use the preset's 587"


def test_every_mistake_is_reported_at_once_in_the_order_of_the_file(relay_yaml: Path) -> None:
    error = refused(
        relay_yaml,
        "preset: ses\n"
        "region: eu-wst-1\n"
        "hostname: relay\n"
        "networks: [10.0.0.1/8, 10.0.0.0/8, 0.0.0.0/0]\n"
        "upstream: {port: 26}\n"
        "netwrks: []\n"
        "main_cf: {mynetworks: '0.0.0.0/0', smtpd_timeout: 30}\n"
        "access:\n"
        "  senders:\n"
        "    rules:\n"
        "      - {kind: exact, pattern: nobody, action: reject}\n"
        "      - {kind: domain, pattern: example.com, action: rejct}\n",
    )
    keys = [problem.split("`")[1] for problem in error.problems]
    assert keys == [
        "region",
        "hostname",
        "networks[0]",
        "networks[2]",
        "upstream.port",
        "netwrks",
        "main_cf.mynetworks",
        "access.senders.rules[0]",
        "access.senders.rules[1].action",
    ]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("regionn: us-east-1", "Did you mean `region`?"),
        ("mynetworks: [10.0.0.0/8]", "Did you mean `networks`?"),
        ("relayhost: smtp.example.com", "Did you mean `upstream.host`?"),
        ("upstream: {prt: 587}", "Did you mean `upstream.port`?"),
        ("concurrency: 5", "Did you mean `delivery.concurrency`?"),
        ("clients: {connectionz: 5}", "Did you mean `clients.connections`?"),
        ("zzz: 5", "Remove the line"),
    ],
)
def test_unknown_key_names_the_nearest(relay_yaml: Path, line: str, hint: str) -> None:
    error = refused(relay_yaml, BASE + line + "\n")
    assert "is not a known key (line 3)" in str(error)
    assert error.hint == hint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hostname: no", "`hostname` is `no`, expected text; YAML reads it as true or false, put it in"),
        ("domain: 1.5", "`domain` is `1.5`, expected text; YAML reads it as a number, put it in quotes"),
        ("domain: 2026-01-01", "YAML reads it as a date, put it in quotes"),
        ("upstream: {port: 0644}", "`0644`, which YAML reads as the octal number 420"),
        ("upstream: {port: 9:47}", "`9:47`, which YAML reads as a number to the base 60"),
        ("upstream: {port: yes}", "`upstream.port` is `yes`, expected a number"),
        ("main_cf: {smtpd_timeout: 0300}", "is `0300`, which YAML reads as the octal"),
        ("allow_any_network: maybe", "is `maybe`, expected true or false"),
        ("networks: 10.0.0.0/8", "`networks` is one single value, expected a list"),
        ("upstream: 587", "`upstream` is one single value, expected keys and values"),
        ("hostname: ''", "`hostname` is empty"),
        ("hostname:", "`hostname` is empty, expected text"),
        ("message_bytes: 1e7", "`message_bytes` is `1e7`, expected a whole number"),
        ("message_bytes: 12", "`message_bytes` is `12`, expected 1024 or more"),
        ("region: us-east-2", "`region` stands twice, first in line 2"),
        ("domain: !own x.example.com", "`domain` cannot be read as YAML means it"),
        ("warm_up: {preset: gmail, steps: [{date: 2026-02-30, percent: 5}]}", "cannot be read as YAML"),
    ],
)  # fmt: skip
def test_traps_of_yaml_are_explained(relay_yaml: Path, line: str, message: str) -> None:
    assert message in str(refused(relay_yaml, BASE + line + "\n"))


def test_booleans_and_numbers_in_main_cf_become_postfix_words(relay_yaml: Path) -> None:
    relay_yaml.write_text(BASE + "main_cf: {append_dot_mydomain: no, smtpd_timeout: 30, always_bcc: ''}\n")
    assert load_config(relay_yaml).main_cf == {
        "append_dot_mydomain": "no",
        "smtpd_timeout": "30",
        "always_bcc": "",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"- preset: ses\n", "the file holds a list, expected keys and values"),
        (b"ses\n", "the file holds one single value"),
        (b"preset: ses\nhostname: x\xe9.example.com\n", "line 2 is not UTF-8 text"),
        (b"preset: ses\nregion: [us\n", "not YAML: line "),
        (b"preset: ses\n\tregion: x\n", "not YAML: line 2"),
        (b"a: &x 1\nb: *x\n", "line 2 has an alias"),
        (b"preset: ses\n---\npreset: ses\n", "not YAML"),
        (b"preset: s\x00es\n", "control character"),
        (b"a: " + b"[" * 5000, "nested too deeply"),
        (b"#" * 300_000, "more than any relay.yaml needs"),
        (b"? [a, b]\n: c\n", "has a list or mapping as a key"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(relay_yaml: Path, content: bytes, message: str) -> None:
    assert message in str(refused(relay_yaml, content))


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file") as raised:
        load_config(tmp_path / "no.yaml")
    assert raised.value.hint == "`builder init` writes one to start from"
    with pytest.raises(ConfigError, match="it is a folder"):
        load_config(tmp_path)


def test_missing_preset_does_not_hide_other_mistakes(relay_yaml: Path) -> None:
    error = refused(relay_yaml, "hostname: relay\nnetworks: ['0.0.0.0/0']\n")
    assert len(error.problems) == 3
    assert "`preset` is missing" in str(error)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_with_its_first_region(name: str) -> None:
    flags = {
        "preset": name,
        "region": None,
        "upstream.host": "smtp.example.com" if name == "custom" else None,
    }
    if name in ("ses", "mailgun", "sparkpost"):
        with pytest.raises(ConfigError, match="`region` is missing"):
            load_config(None, flags)
        flags["region"] = {"ses": "us-east-1"}.get(name, "eu")
    config = load_config(None, flags)
    assert isinstance(config, RelayConfig)
    assert config.secret_shapes


def test_launch_settings_are_checked_the_same_way() -> None:
    boot = boot_config({"hostname": "relay-1.example.com", "networks": ["10.0.0.0/8"], "region": None})
    assert boot.to_json_dict() == {
        "schema": 1,
        "hostname": "relay-1.example.com",
        "networks": ["10.0.0.0/8"],
    }
    with pytest.raises(ConfigError, match="`hostname` is `relay`") as raised:
        boot_config({"hostname": "relay", "networks": ["10.1.0.0/8"]})
    assert len(raised.value.problems) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": "not a url"},
        {"endpoint": "http://10.0.2.2:99999"},
        {"endpoint": "http://secrets.example.com"},
        {"endpoint": "https://a b"},
        {"imds_endpoint": "ftp://10.0.2.2"},
        {"region": " "},
        {"region": "Ireland"},
    ],
)
def test_launch_settings_that_the_agent_would_refuse_are_refused_here(settings: dict[str, str]) -> None:
    [(key, value)] = settings.items()
    with pytest.raises(ConfigError) as raised:
        boot_config(settings)
    assert f"`{key}` is `{value}`, expected an " in raised.value.message


def test_who_is_named_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="`endpoint` is wrong: an address must hold no user") as raised:
        boot_config({"endpoint": "https://hunter22@secrets.example.com"})
    assert "hunter22" not in raised.value.message


def test_launch_settings_never_make_an_open_relay() -> None:
    with pytest.raises(ConfigError, match="would let strangers relay"):
        boot_config({"networks": ["0.0.0.0/0"]})
    boot = boot_config({"networks": ["0.0.0.0/0"], "allow_any_network": True})
    assert boot.to_json_dict() == {"schema": 1, "networks": ["0.0.0.0/0"], "allow_any_network": True}


def test_the_port_of_submission_is_not_wanted_in_quotes(relay_yaml: Path) -> None:
    error = refused(relay_yaml, f"{BASE}submission:\n  secret: relay/users\n  port: 25\n")
    assert error.problems == ("`submission.port` is `25`, expected 587 or 465 (line 5)",)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{BASE}upstream:\n  port: 465\nfallback:\n  preset: postmark\n", 5),
        (f"{BASE}fallback:\n  preset: sendgrid\n  upstream:\n    port: 465\n", 6),
    ],
)
def test_a_fallback_that_begins_tls_otherwise_is_refused_with_its_line(
    relay_yaml: Path, text: str, line: int
) -> None:
    error = refused(relay_yaml, text)
    assert "`fallback.upstream.port` is " in str(error)
    assert f"one delivery attempt serves both (line {line})" in str(error)
    assert str(error.hint).startswith("Set ")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('hostname: "\\ud800.example"', "`hostname`"),
        ('hygiene: {set_headers: {X-A: "\\udfff"}}', "`hygiene.set_headers.X-A`"),
        ('networks: [10.0.0.0/8, "\\ud800"]', "`networks[1]`"),
        ('hygiene: {set_headers: {"X-\\ud800": a}}', "`hygiene.set_headers.(a key that is not shown)`"),
        ('"\\ud800": [1]', "`(a key that is not shown)`"),
    ],
)
def test_half_a_character_is_refused_with_its_key_and_hides_no_other_mistake(
    relay_yaml: Path, line: str, key: str
) -> None:
    error = refused(relay_yaml, f"preset: ses\nregion: nowhere-1\n{line}\n")
    first, second = error.problems
    assert "`region` is `nowhere-1`, where Amazon SES has no SMTP endpoint" in first
    assert second == f"{key} has half a character, or a byte that is not UTF-8, in it (line 3)"


@pytest.mark.parametrize("name", ["preset", "region"])
def test_half_a_character_in_what_others_depend_on_is_one_mistake(relay_yaml: Path, name: str) -> None:
    text = BASE.replace(f"{name}: ", f'{name}: "\\ud800"  # ')
    assert len(refused(relay_yaml, text).problems) == 1


def test_a_flag_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ConfigError, match="command line: `region` has half a character, or a byte"):
        load_config(None, {"preset": "ses", "region": b"us-east-\xff".decode(errors="surrogateescape")})
    with pytest.raises(ConfigError, match="launch settings: `secret` has half a character"):
        boot_config({"secret": "\udcff"})

"""What is rendered for an image as a whole: every preset on every release, and the expected files."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from builder import assets
from builder.config.model import RelayConfig
from builder.releases import RELEASES, get_release
from builder.render import render
from tests.rendered import (
    EVERYTHING,
    EXPECTED,
    EXPECTED_SAMPLES,
    expected_files,
    parameters,
    preset_names,
    rendered,
)

# Together they have every line that main.cf can have.
MAIN_CF_SAMPLES: dict[str, dict[str, Any]] = {
    "smallest": {"preset": "ses", "region": "us-east-1"},
    "everything": EVERYTHING,
    "own notices and parameters": {
        "preset": "gmail",
        "dsn": {"address": "ops@example.com", "classes": ["bounce", "delay"], "from_clients": "rewrite"},
        "warm_up": {"preset": "mailjet", "percent": 5},
        "delivery": {"concurrency": 90, "recipients_per_delivery": 20, "queue_lifetime_hours": 24},
        "recipients_per_message": 100,
        "main_cf": {"maximal_backoff_time": "10m", "smtp_bind_address": "10.0.0.1"},
        "upstream": {"port": 465},
    },
    "open limits": {"preset": "mailgun", "region": "eu", "clients": {"recipients_per_minute": 10}},
}


@pytest.mark.parametrize("sample", EXPECTED_SAMPLES)
def test_rendered_files_are_the_expected_ones(sample: str) -> None:
    folder = EXPECTED / sample
    expected = {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }
    assert expected_files(sample) == expected, "Write them anew with: python -m tests.rendered"


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_renders_on_every_release(preset: str, release: str) -> None:
    files = rendered(preset, release)
    values = parameters(files["root/etc/postfix/main.cf"])
    assert values["relayhost"].startswith("[")
    assert values["smtp_tls_security_level"] == "secure"
    assert values["smtp_sasl_password_maps"] == "texthash:/run/relay/sasl, fail:no-credentials"
    assert values["smtpd_relay_restrictions"] == "permit_mynetworks, reject"
    assert json.loads(files["root/etc/relay/agent.json"])["preset"] == preset


def test_the_same_input_gives_the_same_files() -> None:
    assert rendered() == rendered()


def unexplained(main_cf: str) -> list[str]:
    """Lines that set a parameter and have no comment directly above; a heading (`# --- x ---`) is none."""
    lines = main_cf.splitlines()
    return [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if line and not line.startswith("#") and (not above.startswith("# ") or above.startswith("# ---"))
    ]


@pytest.mark.parametrize("text", ["a = 1\n", "# --- a ---\na = 1\n", "# a\n\na = 1\n", "# b\nb = 1\na = 1\n"])
def test_a_line_without_its_own_reason_is_found(text: str) -> None:
    assert unexplained(text) == ["a = 1"]


def main_cf_of(sample: str, release: str) -> str:
    config = RelayConfig.model_validate(MAIN_CF_SAMPLES[sample])
    return render(config, get_release(release))["root/etc/postfix/main.cf"]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("sample", MAIN_CF_SAMPLES)
def test_every_main_cf_line_has_its_reason_above_it(sample: str, release: str) -> None:
    assert unexplained(main_cf_of(sample, release)) == []


def test_the_samples_have_every_parameter_of_the_template() -> None:
    written = {
        name
        for sample in MAIN_CF_SAMPLES
        for release in RELEASES
        for name in parameters(main_cf_of(sample, release))
    }
    template = assets.read("cloudinit", "postfix/main.cf.j2")
    assert set(re.findall(r"^([a-z0-9_]+) =", template, flags=re.MULTILINE)) <= written


def test_no_parameter_is_set_twice() -> None:
    own = {"queue_run_delay": "90s", "smtp_bind_address": "10.0.0.1"}
    text = rendered(main_cf=own)["root/etc/postfix/main.cf"]
    names = [line.partition(" =")[0] for line in text.splitlines() if line and not line.startswith("#")]
    assert len(names) == len(set(names))
    assert parameters(text)["queue_run_delay"] == "90s"
    assert parameters(text)["smtp_bind_address"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        (
            "ubuntu-20.04",
            {"compatibility_level": "2", "smtp_tls_mandatory_protocols": "!SSLv2, !SSLv3, !TLSv1, !TLSv1.1"},
        ),
        ("ubuntu-22.04", {"compatibility_level": "3.6", "smtp_tls_mandatory_protocols": ">=TLSv1.2"}),
        ("ubuntu-24.04", {"compatibility_level": "3.8", "smtpd_forbid_unauth_pipelining": "yes"}),
        ("ubuntu-26.04", {"compatibility_level": "3.10"}),
    ],
)
def test_parameters_follow_the_release(release: str, expected: dict[str, str]) -> None:
    values = parameters(rendered("ses", release)["root/etc/postfix/main.cf"])
    assert {name: values[name] for name in expected} == expected


def test_bare_newlines_are_written_only_where_they_are_not_the_default() -> None:
    def has(release: str) -> bool:
        return "\nsmtpd_forbid_bare_newline =" in rendered("ses", release)["root/etc/postfix/main.cf"]

    assert {release: has(release) for release in ("ubuntu-20.04", "debian-12", "ubuntu-26.04")} == {
        "ubuntu-20.04": True,
        "debian-12": True,
        "ubuntu-26.04": False,
    }


def test_port_25_is_closed_in_the_image() -> None:
    edits = rendered()["root/usr/lib/relay/master.cf.edits"].splitlines()
    assert "-MX smtp/inet" in edits
    assert not [line for line in edits if line.startswith("-Me smtp")]


def test_tlsproxy_is_there_for_connection_reuse() -> None:
    files = rendered()
    assert "smtp_tls_connection_reuse = yes" in files["root/etc/postfix/main.cf"]
    assert "-Me tlsproxy/unix=tlsproxy unix - - n - 0 tlsproxy" in files["root/usr/lib/relay/master.cf.edits"]


def test_each_package_has_its_reason() -> None:
    files = rendered(packages=["tcpdump"])
    names = files["packages.txt"].split()
    reasons = json.loads(files["install.json"])["packages"]
    assert names == list(reasons)
    assert {"postfix", "libsasl2-modules", "ca-certificates", "tcpdump"} <= set(names)
    assert all(reasons.values())


def test_agent_settings_describe_the_upstream_and_hold_no_secret() -> None:
    settings = json.loads(rendered()["root/etc/relay/agent.json"])
    upstream = settings["upstreams"][0]
    assert upstream["host"] == "email-smtp.us-east-1.amazonaws.com"
    assert upstream["shapes"][0]["derive"] == "ses_smtp_v4"
    assert upstream["secret"] == "relay/ses"
    assert settings["region"] == "us-east-1"


def test_the_postfix_unit_follows_the_release() -> None:
    def unit(release: str) -> object:
        return json.loads(rendered("ses", release)["root/etc/relay/agent.json"])["postfix_unit"]

    assert unit("ubuntu-24.04") == "postfix@-.service"
    assert unit("ubuntu-26.04") == "postfix.service"


@pytest.mark.parametrize("release", RELEASES)
def test_postfix_does_not_dump_the_credential_and_checks_before_each_start_but_the_first(
    release: str,
) -> None:
    unit = get_release(release).postfix_unit
    lines = rendered("ses", release)[f"root/etc/systemd/system/{unit}.d/relay.conf"].splitlines()
    assert {"LimitCORE=0", "MemorySwapMax=0", "LogRateLimitIntervalSec=0"} <= set(lines)
    starts = [line for line in lines if line.startswith("ExecStartPre=")]
    # The packaged one goes. Up to 3.9 `postfix start` itself makes the checks and knows the marker.
    assert starts[0] == "ExecStartPre="
    assert ["quick-start" in line and "postfix check" in line for line in starts[1:]] == (
        [True] if unit == "postfix.service" else []
    )


def test_agent_program_is_copied_whole() -> None:
    files = rendered()
    assert "root/usr/lib/relay/relay_agent/__init__.py" in files
    assert "root/usr/sbin/relay-agent" in files
    assert "root/etc/systemd/system/relay-agent.service" in files
    assert not [path for path in files if "__pycache__" in path]


def test_firewall_lets_mail_in_from_the_networks_only() -> None:
    text = rendered(networks=["10.0.0.0/8", "fd00::/8"])["root/etc/nftables.conf"]
    assert "elements = { 10.0.0.0/8 }" in text
    assert "elements = { fd00::/8 }" in text
    assert "policy accept" in text
    assert "tcp dport { 25 } ct state new counter drop" in text
    assert "22" not in re.findall(r"tcp dport \{ ([^}]*) \}", text)


def test_management_ports_are_restricted_when_asked() -> None:
    firewall = {"management_networks": ["10.9.0.0/16"]}
    text = rendered(firewall=firewall)["root/etc/nftables.conf"]
    assert "tcp dport { 22, 8025 } ip saddr @management4 accept" in text


def test_firewall_can_be_left_out() -> None:
    assert "chain input" not in rendered(firewall={"enabled": False})["root/etc/nftables.conf"]


def test_size_limit_leaves_room_for_headers() -> None:
    values = parameters(rendered()["root/etc/postfix/main.cf"])
    assert int(values["message_size_limit"]) == 40_000_000 - 8192


def test_ipv6_networks_stand_in_brackets() -> None:
    values = parameters(rendered(networks=["fd00::/8"])["root/etc/postfix/main.cf"])
    assert values["mynetworks"] == "127.0.0.0/8 [::1]/128 [fd00::]/8"

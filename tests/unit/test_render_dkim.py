"""DKIM in an image: OpenDKIM's files, Postfix's milter, the agent's plan; never a key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builder.releases import RELEASES
from tests.rendered import parameters, rendered

KEYS = [
    {"domain": "example.com", "selector": "relay2026", "secret": "relay/dkim"},
    {"domain": "news.example.com", "selector": "n1", "secret": "relay/dkim-news"},
]


def _files(preset: str = "ses", release: str = "debian-12", **dkim: Any) -> dict[str, str]:
    return rendered(preset, release, dkim={"keys": KEYS, **dkim})


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_signs_and_refuses_mail_without_the_signer(release: str) -> None:
    files = _files(release=release)
    values = parameters(files["root/etc/postfix/main.cf"])
    assert values["smtpd_milters"] == "unix:/run/relay-dkim/milter/socket"
    assert values["non_smtpd_milters"] == "$smtpd_milters"
    assert values["milter_default_action"] == "tempfail"
    assert "opendkim" in files["packages.txt"].split()


def test_what_the_user_did_not_ask_for_is_not_there() -> None:
    files = rendered()
    assert not [path for path in files if "dkim" in path and "relay_agent" not in path]
    assert "milter" not in files["root/etc/postfix/main.cf"]
    assert "opendkim" not in files["packages.txt"].split()
    assert "dkim" not in json.loads(files["root/etc/relay/agent.json"])


@pytest.mark.parametrize(("release", "converts"), [("debian-12", False), ("debian-13", True)])
def test_eight_bit_text_is_converted_before_signing_where_postfix_can(release: str, converts: bool) -> None:
    values = parameters(_files(release=release)["root/etc/postfix/main.cf"])
    assert values.get("force_mime_input_conversion") == ("yes" if converts else None)


def test_each_domain_has_its_key_and_the_deepest_domain_is_looked_up_first() -> None:
    files = _files()
    assert files["root/etc/relay/dkim/key.table"].splitlines() == [
        "example.com example.com:relay2026:/run/relay-dkim/keys/example.com.pem",
        "news.example.com news.example.com:n1:/run/relay-dkim/keys/news.example.com.pem",
    ]
    assert files["root/etc/relay/dkim/signing.table"].splitlines() == [
        "*@news.example.com news.example.com",
        "*@*.news.example.com news.example.com",
        "*@example.com example.com",
        "*@*.example.com example.com",
    ]


def _setting(files: dict[str, str], name: str) -> str:
    lines = files["root/etc/relay/dkim/opendkim.conf"].splitlines()
    return next(line.partition(" ")[2] for line in lines if line.startswith(f"{name} "))


def test_what_ses_replaces_is_not_signed() -> None:
    names = _setting(_files(), "SignHeaders").split(",")
    assert not {"Date", "Message-ID"} & set(names)
    assert {"From", "Subject", "To"} <= set(names)
    assert {"Date", "Message-ID"} <= set(_setting(_files(), "OmitHeaders").split(","))


def test_other_providers_get_date_and_message_id_signed() -> None:
    assert {"Date", "Message-ID"} <= set(_setting(_files("postmark"), "SignHeaders").split(","))


def test_the_user_may_prefer_unsigned_mail_to_late_mail() -> None:
    files = _files(signer_down="send_unsigned")
    assert parameters(files["root/etc/postfix/main.cf"])["milter_default_action"] == "accept"
    assert _setting(files, "On-SignatureError") == "accept"
    assert json.loads(files["root/etc/relay/agent.json"])["dkim"]["must_sign"] is False


def test_the_agent_is_told_secrets_and_files_and_no_key_is_anywhere() -> None:
    files = _files()
    plan = json.loads(files["root/etc/relay/agent.json"])["dkim"]
    assert plan["must_sign"] is True
    assert plan["unit"] == "relay-dkim.service"
    assert f"root/etc/systemd/system/{plan['unit']}" in files
    assert plan["keys"][0] == {**KEYS[0], "file": "/run/relay-dkim/keys/example.com.pem"}
    assert not [path for path, text in files.items() if "BEGIN" in text and "PRIVATE KEY-----\n" in text]


def test_keys_and_socket_are_in_folders_of_their_own_on_tmpfs() -> None:
    lines = _files()["root/usr/lib/tmpfiles.d/relay-dkim.conf"].splitlines()
    assert "d /run/relay-dkim/keys 0700 opendkim opendkim -" in lines
    assert "d /run/relay-dkim/milter 0750 opendkim postfix -" in lines

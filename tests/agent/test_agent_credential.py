"""Tests of relay_agent.credential and maps: shapes, derivation, and a map that only root reads."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from relay_agent import credential, logs
from relay_agent.credential import Credential, ses_smtp_v4
from relay_agent.maps import make_private_folder, read_sasl, write_sasl, write_whole
from relay_agent.settings import Shape
from relay_agent.trouble import Trouble

from tests.agent.relay_world import PASSWORD, USER

EXAMPLE = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
IAM = Shape(
    "iam_access_key",
    ("access_key_id", "secret_access_key"),
    "{access_key_id}",
    "{secret_access_key}",
    "ses_smtp_v4",
)
SMTP = Shape("smtp", ("username", "password"), "{username}", "{password}")
SENDGRID = Shape("api_key", ("api_key",), "apikey", "{api_key}")


def read(value: Any, *shapes: Shape, region: str | None = "us-east-1") -> Credential:
    text = value if isinstance(value, str) else json.dumps(value)
    return credential.read(text, shapes=shapes or (IAM, SMTP), secret="relay/ses", region=region)


def refusal(value: Any, *shapes: Shape, region: str | None = "us-east-1") -> Trouble:
    with pytest.raises(Trouble) as caught:
        read(value, *shapes, region=region)
    return caught.value


@pytest.mark.parametrize(
    ("region", "secret", "password"),
    [
        # aws/aws-sdk-php, tests/Ses/SesClientTest.php
        ("us-east-2", EXAMPLE, "BMPPgbAHoFVbze1Ud0oA5uNdXRwUXUZ+qOwphGJbl/cS"),
        # hashicorp/terraform-provider-aws, TestSESSMTPPasswordFromSecretKeySigV4
        ("eu-central-1", "some+secret+key", "BMXhUYlu5Z3gSXVQORxlVa7XPaz91aGWdfHxvkOZdWZ2"),
        ("eu-central-1", "another+secret+key", "BBbphbrQmrKMx42d1N6+C7VINYEBGI5v9VsZeTxwskfh"),
        ("us-west-1", "some+secret+key", "BH+jbMzper5WwlwUar9E1ySBqHa9whi0GPo+sJ0mVYJj"),
        ("us-west-1", "another+secret+key", "BKVmjjMDFk/qqw8EROW99bjCS65PF8WKvK5bSr4Y6EqF"),
        # aws-samples/serverless-mail, computed with its code
        ("us-east-1", EXAMPLE, "BLBM/9hSUELfq8Gw+rU1YcBjkOxGbhT2XG763xVLGWL9"),
    ],
)
def test_the_ses_password_is_derived_as_published(region: str, secret: str, password: str) -> None:
    assert ses_smtp_v4(secret, region) == password


def test_an_access_key_becomes_an_smtp_login_of_its_region() -> None:
    found = read({"access_key_id": "AKIAEXAMPLE", "secret_access_key": EXAMPLE}, region="us-east-2")
    assert (found.username, found.shape) == ("AKIAEXAMPLE", "iam_access_key")
    assert found.password == "BMPPgbAHoFVbze1Ud0oA5uNdXRwUXUZ+qOwphGJbl/cS"


def test_a_ready_password_is_used_as_it_is() -> None:
    found = read({"username": "u", "password": "p:with {braces} and %s", "extra": 1})
    assert (found.username, found.password, found.shape) == ("u", "p:with {braces} and %s", "smtp")


def test_a_literal_user_name_comes_from_the_template() -> None:
    found = read({"api_key": "SG.abcdef"}, SENDGRID)
    assert (found.username, found.password) == ("apikey", "SG.abcdef")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_a_line_break_at_the_end_is_left_out_and_said(end: str) -> None:
    found = read({"username": "user", "password": "secret" + end})
    assert found.password == "secret"
    assert found.note == "a line break at the end of `password` was left out"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("hunter22", "plain text and not a JSON object"),
        ('["hunter22"]', "not an object"),
        ({}, "no fields"),
        ({"user": "u", "pass": "hunter22"}, "the fields `pass`, `user`"),
        ({"username": "hunter22"}, "the field `username`"),
        ({"SG.a-secret-that-was-stored-as-a-key-hunter22": ""}, "a name not shown here"),
        ({"username": "u", "password": 12345678}, "a int in `password`; expected text"),
        ({"username": "u", "password": ""}, "nothing in `password`"),
        ({"username": "u", "password": "hun\nter22"}, "a line break or control character inside `password`"),
        ({"username": "u", "password": "hunter22 "}, "a blank at the start or end of `password`"),
        ({"username": "u:v", "password": "hunter22"}, "a colon"),
    ],
)
def test_a_wrong_shape_names_fields_and_no_value(value: Any, said: str) -> None:
    trouble = refusal(value)
    assert trouble.code == "secret-shape"
    assert trouble.lasting
    assert said in trouble.message
    for text in (trouble.message, str(trouble.hint)):
        assert "hunter22" not in text
        assert "12345678" not in text


def test_a_wrong_shape_says_what_would_be_right() -> None:
    assert (
        "expected `access_key_id`, `secret_access_key` (iam_access_key) or `username`, `password` (smtp)"
        in refusal({"user": "x"}).message
    )


def test_an_access_key_without_a_region_cannot_be_derived() -> None:
    trouble = refusal({"access_key_id": "AKIA", "secret_access_key": EXAMPLE}, region=None)
    assert trouble.code == "region-missing"
    assert EXAMPLE not in trouble.message


def test_every_spelling_of_a_password_is_hidden_afterwards() -> None:
    read({"username": "user", "password": 'se"cr+et/ü'})
    shown = logs.clean_json({"a": 'se"cr+et/ü', "b": "c2UiY3IrZXQvw7w=", "c": "se%22cr%2Bet%2F%C3%BC"})
    assert "cr+et" not in shown
    assert "c2UiY3" not in shown
    assert "cr%2Bet" not in shown
    assert 'se"cr' not in repr(read({"username": "user", "password": 'se"cr+et/ü'}))


def test_the_map_is_keyed_by_the_bare_host_and_only_for_root(tmp_path: Path) -> None:
    path = tmp_path / "sasl"
    write_sasl(path, {"b.example": Credential("u2", "p2"), "a.example": Credential("u", "p:q r")})
    assert path.read_text() == "a.example u:p:q r\nb.example u2:p2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_sasl(path)["a.example"].password == "p:q r"


def test_a_map_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "sasl"
    write_sasl(path, {"a.example": Credential("u", "old")})
    with path.open() as reader:
        write_sasl(path, {"a.example": Credential("u", "new")})
        assert reader.read() == "a.example u:old\n"
    assert path.read_text() == "a.example u:new\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "sasl"
    write_whole(path, "old", mode=0o600)
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800", mode=0o600)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_agent_left_behind_is_no_hindrance(tmp_path: Path) -> None:
    import os

    (tmp_path / f".sasl.{os.getpid()}.new").write_text("half")
    write_whole(tmp_path / "sasl", "whole", mode=0o600)
    assert (tmp_path / "sasl").read_text() == "whole"


def test_the_folder_is_closed_to_others(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "relay")
    assert stat.S_IMODE((tmp_path / "relay").stat().st_mode) == 0o750


def test_a_password_stays_hidden_whatever_comes_after_it() -> None:
    """The metadata service's token is a new one each half minute where Amazon SES is asked for its quota."""
    logs.hide_login(USER, PASSWORD)
    for number in range(2000):
        logs.hide(f"token-{number:05d}==", is_passing=True)
    for number in range(300):
        logs.hide_login(f"app-{number}", f"password of application {number}")
    plain = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode().rstrip("=")
    assert logs.clean(f"{PASSWORD} {plain} token-01999==") == "[hidden] [hidden] [hidden]"


ODD = (
    "#hash",
    "back\\slash\\",
    "co:lon::s",
    "two  words",
    "ümläut€",
    '"quoted"',
    "'",
    "$mynetworks ${x}",
    "%s",
    "a=b,c",
)


@pytest.mark.postfix
@pytest.mark.parametrize("value", ODD)
def test_postfix_reads_the_very_bytes_that_were_proven(tmp_path: Path, value: str) -> None:
    """The table is `texthash:`; a user name with a colon is refused, so the first one ends it."""
    (tmp_path / "main.cf").write_text("compatibility_level = 2\nsmtputf8_enable = no\n")
    path = tmp_path / "sasl"
    found = read({"username": value.replace(":", ""), "password": value})
    write_sasl(path, {"localhost": found})
    command = ["postmap", "-c", str(tmp_path), "-q", "localhost", f"texthash:{path}"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == f"{found.username}:{found.password}\n".encode()
    assert read_sasl(path)["localhost"].password == found.password == value

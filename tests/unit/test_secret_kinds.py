"""What each secret of relay.yaml may hold: as the agent sees it, and without repeating any of it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from relay_agent import credential, submission
from relay_agent import settings as agent
from relay_agent.trouble import Trouble

from builder.config import load_config
from builder.errors import ConfigError
from builder.releases import get_release
from builder.render.agent import agent_settings
from builder.secret_kinds import Credential, DkimKey, SubmissionUsers, kinds_of
from builder.standin.secrets import SecretsManager
from tests.rendered import config_of
from tests.unit.test_cli import run

RELAY = """\
preset: ses
region: us-east-1
submission: {secret: relay/users, certificate: self_signed}
dkim:
  keys:
    - {domain: example.com, selector: a, secret: relay/dkim}
    - {domain: example.net, selector: b, secret: relay/dkim}
"""
USERS = SubmissionUsers("relay/users", has_certificate=False)
TLS_USERS = SubmissionUsers("relay/users", has_certificate=True)
DKIM = DkimKey("relay/dkim")


def pem(key: Any, password: bytes | None = None) -> str:
    form = serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return str(key.private_bytes(serialization.Encoding.PEM, form, locked).decode())


RSA = rsa.generate_private_key(65537, 2048)


@pytest.fixture
def relay_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SecretsManager]:
    """A folder with a relay.yaml, and a Secrets Manager."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    (tmp_path / "relay.yaml").write_text(RELAY)
    with SecretsManager(region="us-east-1") as manager:
        yield manager


def test_every_secret_of_relay_yaml_is_known_once(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RELAY)
    names = [kind.name for kind in kinds_of(load_config(tmp_path / "relay.yaml", {}))]
    assert names == ["relay/ses", "relay/users", "relay/dkim"]


@pytest.mark.parametrize(
    "document",
    [
        {"users": {"app": "long-enough"}},
        {"users": {"a.b+c@example.com": "with a blank in it", "second_1": "12345678"}},
        {},
        {"users": {}},
        {"users": ["app"]},
        {"users": {"app": "short"}},
        {"users": {"app": "with\na line end"}},
        {"users": {"app": 12345678}},
        {"users": {"": "long-enough"}},
        {"users": {"two words": "long-enough"}},
        {"users": {"a" * 65: "long-enough"}},
        {"users": {"app\n": "long-enough"}},
    ],
    ids=str,
)
def test_users_are_taken_here_as_the_agent_takes_them(document: dict[str, Any]) -> None:
    try:
        submission._users(document, "relay/users")
        agent_takes_it = True
    except Trouble:
        agent_takes_it = False
    try:
        USERS.shape_of(document, source="stdin")
        taken_here = True
    except ConfigError:
        taken_here = False
    assert taken_here == agent_takes_it


CREDENTIALS = [
    ("ses", '{"access_key_id": "AKIAX", "secret_access_key": "key"}', "iam_access_key"),
    ("ses", '{"username": "AKIAX", "password": "a b:c{d}"}', "smtp"),
    ("ses", '{"username": "AKIAX", "password": "pass\\r\\n"}', "smtp"),
    ("ses", '{"username": "AKIAX", "password": "pass", "port": 587}', "smtp"),
    ("ses", '{"username": "AKIAX", "password": "pass "}', None),
    ("ses", '{"username": "\\u00a0AKIAX", "password": "pass"}', None),
    ("ses", '{"username": "AKIAX", "password": "pa\\u0000ss"}', None),
    ("ses", '{"username": "AKIAX", "password": "pa\\nss"}', None),
    ("ses", '{"username": "AKIAX", "password": "pa\\u2028ss"}', None),
    ("ses", '{"username": "AKIAX", "password": "pa\\ud800ss"}', None),
    ("ses", '{"username": "AKIAX", "password": "\\n"}', None),
    ("ses", '{"username": "AKI:AX", "password": "pass"}', None),
    ("ses", '{"username": "AKIAX", "password": 12345678}', None),
    ("ses", '{"username": "AKIAX", "password": null}', None),
    ("ses", '{"username": "AKIAX"}', None),
    # The first shape whose fields are there counts, whatever is in them.
    (
        "ses",
        '{"access_key_id": "", "secret_access_key": "", "username": "AKIAX", "password": "pass"}',
        None,
    ),
    ("ses", '\ufeff{"username": "AKIAX", "password": "pass"}', None),
    ("ses", '["username", "password"]', None),
    ("ses", "hunter2", None),
    ("ses", "", None),
    ("ses", "[" * 100_000, None),
    ("sendgrid", '{"api_key": "SG.x:y"}', "api_key"),
    ("sendgrid", '{"key": "SG.x"}', None),
    ("gmail", '{"username": "me@example.com", "password": "abcd"}', "app_password"),
    (
        "gmail",
        '{"username": "me@example.com", "client_id": "a", "client_secret": "b", "refresh_token": "c"}',
        None,
    ),
    (
        "microsoft365",
        '{"username": "a@example.com", "tenant": "b", "client_id": "c", "client_secret": " d"}',
        None,
    ),
]


@pytest.mark.parametrize(("preset", "text", "expected"), CREDENTIALS, ids=range(len(CREDENTIALS)))
def test_a_credential_is_taken_here_as_the_agent_takes_it(
    preset: str, text: str, expected: str | None
) -> None:
    config = config_of(preset)
    shapes = agent._baked(agent_settings(config, get_release("debian-12"))).upstreams[0].shapes
    try:
        taken = credential.read(text, shapes=shapes, secret="relay/x", region=config.region)
        by_agent = taken.shape
    except Trouble:
        by_agent = None
    kind, said = Credential(config), ""
    try:
        here = kind.shape_of(kind.parse(text, source="stdin"), source="stdin")
    except ConfigError as error:
        here, said = None, error.message
    assert (here, by_agent) == (expected, expected)
    assert not re.search(r"pass(?!word)|AKI|hunter2", said)


def test_a_credential_for_the_other_way_to_log_in_says_which_line_it_needs() -> None:
    document = {"username": "me@example.com", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    with pytest.raises(ConfigError) as caught:
        Credential(config_of("gmail")).shape_of(document, source="stdin")
    assert "`auth: xoauth2` in relay.yaml" in (caught.value.hint or "")
    assert Credential(config_of("gmail", auth="xoauth2")).shape_of(document, source="stdin")


def test_all_mistakes_of_the_users_are_told_and_no_password() -> None:
    with pytest.raises(ConfigError) as caught:
        TLS_USERS.shape_of({"users": {"app": "hunter2", "two words": "hunter22-long"}}, source="stdin")
    assert len(caught.value.problems) == 4
    assert "hunter2" not in str(caught.value)


def test_a_certificate_must_be_that_of_the_key_and_still_be_good() -> None:
    now = datetime.now(UTC)
    authority = trustme.CA()
    good, other = authority.issue_cert("relay.example.com"), authority.issue_cert("other.example.com")
    old = authority.issue_cert("relay.example.com", not_after=now - timedelta(days=1))

    def problems(certificate: trustme.LeafCert, key: trustme.LeafCert) -> list[str]:
        document = {
            "users": {"app": "long-enough"},
            "certificate": certificate.cert_chain_pems[0].bytes().decode(),
            "private_key": key.private_key_pem.bytes().decode(),
        }
        try:
            assert TLS_USERS.shape_of(document, source="stdin") == "submission_users"
        except ConfigError as error:
            return list(error.problems)
        return []

    assert problems(good, good) == []
    assert problems(other, good) == ["the first certificate of `certificate` is not that of `private_key`"]
    assert problems(old, old) == [f"`certificate` has expired on {now - timedelta(days=1):%Y-%m-%d}"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (pem(ed25519.Ed25519PrivateKey.generate()), "not an RSA key"),
        (pem(RSA, b"passphrase"), "without a passphrase"),
        (pem(RSA).replace("A", "B"), "not an RSA key"),
        ("", "not an RSA key"),
        (None, "not an RSA key"),
    ],
    ids=["ed25519", "passphrase", "spoilt", "empty", "missing"],
)
def test_a_key_that_opendkim_cannot_use_is_refused(key: str | None, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        DKIM.shape_of({"private_key": key}, source="stdin")
    assert not key or key not in str(caught.value)


def test_a_key_may_come_as_openssl_prints_it(
    relay_yaml: SecretsManager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(pem(RSA)))
    where = ("relay/dkim", "--endpoint", relay_yaml.endpoint)
    code, version, err = run(capsys, "secret", "put", *where)
    assert (code, err.count("PRIVATE")) == (0, 0)
    assert "`builder secret show relay/dkim`" in err

    _code, out, _err = run(capsys, "secret", "show", *where, "--json")
    shown = json.loads(out)
    assert (shown["version"], shown["shape"], shown["fields"]) == (
        version.strip(),
        "dkim_key",
        ["private_key"],
    )


def test_users_are_described_by_their_names(
    relay_yaml: SecretsManager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"users": {"app": "hunter22", "cron": "hunter23"}}'))
    where = ("relay/users", "--endpoint", relay_yaml.endpoint)
    assert run(capsys, "secret", "put", *where)[0] == 0
    _code, out, err = run(capsys, "secret", "show", *where)
    assert "users.app, users.cron" in out
    assert "hunter2" not in out + err


def test_only_a_providers_credential_is_tried(
    relay_yaml: SecretsManager, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _out, err = run(capsys, "secret", "check", "relay/users", "--endpoint", relay_yaml.endpoint)
    assert code == 1
    assert "holds the users of the submission port" in err
    assert "builder secret show relay/users" in err


def test_at_a_terminal_what_nobody_types_is_not_asked_for(
    relay_yaml: SecretsManager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    code, _out, err = run(capsys, "secret", "put", "relay/dkim", "--endpoint", relay_yaml.endpoint)
    assert code == 1
    assert "openssl genrsa 2048 | builder secret put relay/dkim" in err


def test_a_secret_that_relay_yaml_does_not_name_is_the_providers(
    relay_yaml: SecretsManager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"users": {"app": "hunter22"}}'))
    code, _out, err = run(capsys, "secret", "put", "relay/other", "--endpoint", relay_yaml.endpoint)
    assert code == 1
    assert "`builder presets ses` shows the fields" in err
    assert "hunter22" not in err

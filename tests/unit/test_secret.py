"""The secret verbs against the stand-ins on loopback: Secrets Manager, and a provider with TLS and AUTH."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import aws
from builder import secret as secrets
from builder.config import load_config
from builder.errors import BuilderError, ConfigError
from builder.secret_kinds import Credential
from builder.standin.provider import Provider
from builder.standin.secrets import SecretFault, SecretsManager
from tests.unit.standin_client import PASSWORD
from tests.unit.test_cli import run

REGION = "us-east-1"
KEY = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "wJalrXUtnFEMIexamplekey"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[SecretsManager]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with SecretsManager(region=REGION) as running:
        yield running
        running._names.add("relay/ses")


@pytest.fixture
def ses() -> Credential:
    return Credential(load_config(None, {"preset": "ses", "region": REGION}))


def custom(port: int) -> Credential:
    """The credential for the provider stand-in: `localhost` is not a name that relay.yaml takes."""
    plain = load_config(None, {"preset": "custom", "upstream.host": "mail.example.com", "region": REGION})
    override = plain.upstream.model_copy(update={"host": "localhost", "port": port})
    return Credential(plain.model_copy(update={"upstream": override}))


def test_what_is_put_can_be_described_and_nothing_of_it_is_shown(
    manager: SecretsManager, ses: Credential
) -> None:
    version = secrets.put(ses, KEY, region=REGION, endpoint=manager.endpoint)

    described = secrets.show(ses, region=REGION, endpoint=manager.endpoint)

    assert (described.version, described.shape) == (version, "iam_access_key")
    assert described.fields == ("access_key_id", "secret_access_key")
    assert not any(value in str(described) for value in KEY.values())


def test_putting_again_makes_a_new_version(manager: SecretsManager, ses: Credential) -> None:
    first = secrets.put(ses, KEY, region=REGION, endpoint=manager.endpoint)
    second = secrets.put(ses, KEY, region=REGION, endpoint=manager.endpoint)

    assert first != second
    assert secrets.show(ses, region=REGION, endpoint=manager.endpoint).version == second


def test_who_may_only_rotate_a_secret_can_put(manager: SecretsManager, ses: Credential) -> None:
    secrets.put(ses, KEY, region=REGION, endpoint=manager.endpoint)
    manager.fail(SecretFault.DENIED, operation="CreateSecret")

    assert secrets.put(ses, KEY, region=REGION, endpoint=manager.endpoint)


def test_a_secret_may_be_put_by_its_arn_and_is_never_made_by_it(manager: SecretsManager) -> None:
    def put(arn: str) -> str:
        kind = Credential(load_config(None, {"preset": "ses", "region": REGION, "secret": arn}))
        return secrets.put(kind, KEY, region=REGION, endpoint=manager.endpoint)

    arn = manager.client.create_secret(Name="relay/ses", SecretString="{}")["ARN"]
    assert put(arn)

    with pytest.raises(BuilderError, match="There is no secret `arn:aws:") as caught:
        put(arn.replace("relay/ses", "relay/other"))
    assert "create the secret by its name first" in (caught.value.hint or "")
    assert "CreateSecret" not in {call.operation for call in manager.calls}


def test_fields_that_no_shape_has_are_refused_without_their_values(
    manager: SecretsManager, ses: Credential
) -> None:
    with pytest.raises(ConfigError) as caught:
        secrets.put(ses, {"user": "me", "pass": "hunter2"}, region=REGION, endpoint=manager.endpoint)

    assert "the fields are `user`, `pass`, expected" in caught.value.message
    assert "hunter2" not in caught.value.message
    assert not manager.calls


@pytest.mark.parametrize("text", ["not json hunter2", '["hunter2"]', ""])
def test_what_is_no_json_object_is_refused_unseen(ses: Credential, text: str) -> None:
    with pytest.raises(ConfigError, match="not a JSON object") as caught:
        ses.parse(text, source="stdin")

    assert "hunter2" not in caught.value.message


def test_a_byte_order_mark_is_no_part_of_the_secret(
    manager: SecretsManager, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key.json").write_text(json.dumps(KEY), encoding="utf-8-sig")
    put = ("secret", "put", "relay/ses", "--endpoint", manager.endpoint)

    assert run(capsys, *put, "--file", str(tmp_path / "key.json"))[0] == 0


def test_a_file_that_is_no_text_is_refused_unseen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key.json").write_bytes(b'{"password": "hunter2\xff"}')

    code, out, err = run(
        capsys, "--debug", "secret", "put", "relay/ses", "--file", str(tmp_path / "key.json")
    )

    assert (code, out) == (1, "")
    assert "this is not UTF-8 text" in err
    assert "`builder presets ses` shows the fields" in err
    assert "hunter2" not in err


def test_a_password_that_smtp_cannot_carry_is_told_and_not_shown(
    manager: SecretsManager, provider: Provider
) -> None:
    relay = custom(provider.port)
    secrets.put(relay, {"username": "me", "password": "schlüssel"}, region=REGION, endpoint=manager.endpoint)

    with pytest.raises(BuilderError, match="has characters outside ASCII") as caught:
        secrets.check(relay, region=REGION, endpoint=manager.endpoint, ca_pem=provider.ca_pem)

    assert "schl" not in caught.value.message


def test_certificates_that_are_none_are_told(manager: SecretsManager, provider: Provider) -> None:
    relay = custom(provider.port)
    secrets.put(relay, {"username": "me", "password": "x"}, region=REGION, endpoint=manager.endpoint)

    with pytest.raises(BuilderError, match="The certificates to trust cannot be used"):
        secrets.check(relay, region=REGION, endpoint=manager.endpoint, ca_pem="no certificate")


def test_a_missing_secret_is_named(manager: SecretsManager, ses: Credential) -> None:
    with pytest.raises(BuilderError, match="`relay/ses`"):
        secrets.show(ses, region=REGION, endpoint=manager.endpoint)


def test_check_logs_in_over_verified_tls(manager: SecretsManager, provider: Provider) -> None:
    relay = custom(provider.port)
    # With the line end of `echo`, which the relay leaves out too.
    secret = {"username": "AKIAEXAMPLE", "password": f"{PASSWORD}\n"}
    secrets.put(relay, secret, region=REGION, endpoint=manager.endpoint)

    said = secrets.check(relay, region=REGION, endpoint=manager.endpoint, ca_pem=provider.ca_pem)

    assert "accepted the secret `relay/custom`" in said
    assert provider.leaks == ()
    assert provider.messages == ()


def test_check_tells_the_providers_reply_and_not_the_password(
    manager: SecretsManager, provider: Provider
) -> None:
    relay = custom(provider.port)
    secret = {"username": "AKIAEXAMPLE", "password": "hunter2"}
    secrets.put(relay, secret, region=REGION, endpoint=manager.endpoint)

    with pytest.raises(BuilderError, match="refused the secret `relay/custom`: 535") as caught:
        secrets.check(relay, region=REGION, endpoint=manager.endpoint, ca_pem=provider.ca_pem)

    assert "hunter2" not in caught.value.message


def test_check_gives_no_password_to_an_unknown_certificate(
    manager: SecretsManager, provider: Provider
) -> None:
    relay = custom(provider.port)
    secret = {"username": "AKIAEXAMPLE", "password": PASSWORD}
    secrets.put(relay, secret, region=REGION, endpoint=manager.endpoint)

    with pytest.raises(BuilderError, match="CERTIFICATE_VERIFY_FAILED"):
        secrets.check(relay, region=REGION, endpoint=manager.endpoint)

    assert provider.counts.auths == 0


def test_the_verbs_put_and_show(
    manager: SecretsManager, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "credential.json"
    file.write_text(json.dumps(KEY))
    where = ("--preset", "ses", "--region", REGION, "--endpoint", manager.endpoint)

    code, version, err = run(capsys, "secret", "put", *where, "--file", str(file))
    assert code == 0
    assert KEY["secret_access_key"] not in version + err

    code, out, _err = run(capsys, "secret", "show", *where, "--json")
    assert code == 0
    assert json.loads(out)["version"] == version.strip()


def test_without_a_terminal_the_secret_is_read_from_stdin(
    manager: SecretsManager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put = ("secret", "put", "relay/ses", "--endpoint", manager.endpoint)

    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(KEY)))
    assert run(capsys, *put)[0] == 0

    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _out, err = run(capsys, *put)
    assert code == 1
    assert "not a JSON object" in err


@pytest.mark.parametrize("more", [(), ("--file", "-")], ids=["without a file", "with a file"])
def test_a_closed_stdin_is_an_empty_one(
    more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    code, _out, err = run(capsys, "secret", "put", "relay/ses", *more)
    assert (code, "error: stdin: this is not a JSON object" in err) == (1, True)


def test_a_name_that_ends_in_a_preset_says_the_preset_too(
    manager: SecretsManager, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "key.json").write_text('{"api_key": "SG.x"}')

    put = ("secret", "put", "relay/sendgrid", "--endpoint", manager.endpoint, "--file", "key.json")
    assert run(capsys, *put)[0] == 0

    _code, out, _err = run(
        capsys, "secret", "show", "relay/sendgrid", "--endpoint", manager.endpoint, "--json"
    )
    assert json.loads(out)["fields"] == ["api_key"]


def test_the_secret_of_the_second_provider_in_relay_yaml_has_that_ones_shape(
    manager: SecretsManager, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "relay.yaml").write_text("preset: ses\nregion: us-east-1\nfallback: {preset: sendgrid}\n")
    (here / "key.json").write_text('{"api_key": "SG.x"}')

    put = ("secret", "put", "relay/sendgrid", "--endpoint", manager.endpoint, "--file", "key.json")
    assert run(capsys, *put)[0] == 0

    code, _out, err = run(capsys, "secret", "put", "--endpoint", manager.endpoint, "--file", "key.json")
    assert code == 1
    assert "access_key_id" in err


def test_a_secret_is_sought_in_the_region_of_its_arn(
    manager: SecretsManager, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = aws.client("secretsmanager", region="eu-west-1", endpoint=manager.endpoint)
    arn = client.create_secret(Name="relay/other", SecretString=json.dumps(KEY))["ARN"]
    (here / "relay.yaml").write_text(f"preset: ses\nregion: us-east-1\nsecret: {arn}\n")

    for name in ([], [arn]):
        code, out, _err = run(capsys, "secret", "show", *name, "--endpoint", manager.endpoint, "--json")
        assert (code, json.loads(out)["region"]) == (0, "eu-west-1")

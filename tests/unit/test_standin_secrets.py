"""The Secrets Manager stand-in as boto3 sees it, when it works and when it does not."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from builder import aws
from builder.aws import AwsError, Credentials
from builder.errors import BuilderError
from builder.standin.secrets import SecretFault, SecretsManager

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

KEY = "ASIAEXAMPLE"


@pytest.fixture
def secrets() -> Iterator[SecretsManager]:
    with SecretsManager(access_keys=[KEY]) as running:
        running.put("relay/ses", {"username": "u", "password": "p"})
        yield running


@pytest.fixture
def client(secrets: SecretsManager) -> Iterator[SecretsManagerClient]:
    made = _client(secrets)
    yield made
    made.close()


def _client(secrets: SecretsManager, *, key: str = KEY, attempts: int = 1) -> SecretsManagerClient:
    return aws.client(
        "secretsmanager",
        region=secrets.region,
        endpoint=secrets.endpoint,
        credentials=Credentials(key, "x", "token"),
        attempts=attempts,
    )


def _read(client: SecretsManagerClient) -> str:
    with aws.calling("read the secret `relay/ses`"):
        return client.get_secret_value(SecretId="relay/ses")["SecretString"]


def test_a_secret_is_read_as_it_was_put(client: SecretsManagerClient) -> None:
    assert json.loads(_read(client)) == {"username": "u", "password": "p"}


def test_a_secret_that_is_named_by_its_arn_is_in_its_region(secrets: SecretsManager) -> None:
    arn = "arn:aws:secretsmanager:eu-west-3:123456789012:secret:relay/ses-AbCdEf"
    secrets.put(arn, "there")
    secrets.rotate(arn, "there again")
    elsewhere = aws.client(
        "secretsmanager",
        region="eu-west-3",
        endpoint=secrets.endpoint,
        credentials=Credentials(KEY, "x", "token"),
    )
    assert elsewhere.get_secret_value(SecretId=arn)["SecretString"] == "there again"
    elsewhere.close()


def test_a_rotation_moves_the_version_before_aside(
    secrets: SecretsManager, client: SecretsManagerClient
) -> None:
    version = secrets.rotate("relay/ses", "new")

    now = client.get_secret_value(SecretId="relay/ses")
    before = client.get_secret_value(SecretId="relay/ses", VersionStage="AWSPREVIOUS")
    assert (now["SecretString"], now["VersionId"]) == ("new", version)
    assert json.loads(before["SecretString"])["password"] == "p"


def test_putting_again_is_a_rotation(secrets: SecretsManager, client: SecretsManagerClient) -> None:
    secrets.put("relay/ses", "again")
    assert _read(client) == "again"


def test_a_deleted_secret_is_not_found(secrets: SecretsManager, client: SecretsManagerClient) -> None:
    secrets.delete("relay/ses")
    with pytest.raises(AwsError, match="ResourceNotFoundException") as caught:
        _read(client)
    assert caught.value.code == "ResourceNotFoundException"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (SecretFault.DENIED, "AccessDeniedException"),
        (SecretFault.KMS_DENIED, "AccessDeniedException"),
        (SecretFault.THROTTLED, "ThrottlingException"),
        (SecretFault.ERROR_500, "InternalServiceError"),
        (SecretFault.DROPPED, ""),
    ],
)
def test_a_fault_lasts_until_it_is_cleared(
    secrets: SecretsManager, client: SecretsManagerClient, fault: SecretFault, code: str
) -> None:
    secrets.fail(fault)
    for _ in range(2):
        with pytest.raises(AwsError, match="Cannot read the secret `relay/ses`") as caught:
            _read(client)
        assert caught.value.code == code
    secrets.clear()
    assert _read(client)


def test_a_fault_can_run_out_while_a_client_tries_again(secrets: SecretsManager) -> None:
    secrets.fail(SecretFault.THROTTLED, times=2)
    client = _client(secrets, attempts=3)
    assert _read(client)
    client.close()

    assert [call.status for call in secrets.calls] == [400, 400, 200]


def test_a_fault_can_hit_one_operation_only(secrets: SecretsManager, client: SecretsManagerClient) -> None:
    secrets.fail(SecretFault.DENIED, operation="GetSecretValue")
    assert client.describe_secret(SecretId="relay/ses")["Name"] == "relay/ses"
    with pytest.raises(AwsError):
        _read(client)


def test_a_slow_answer_is_right_but_late(secrets: SecretsManager, client: SecretsManagerClient) -> None:
    secrets.fail(SecretFault.SLOW, seconds=0.3)
    began = time.monotonic()
    assert _read(client)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize(("ahead", "text"), [(400, "Signature expired"), (-400, "not yet current")])
def test_a_clock_that_is_off_is_refused(
    secrets: SecretsManager, client: SecretsManagerClient, ahead: float, text: str
) -> None:
    secrets.fail(SecretFault.CLOCK_SKEW, seconds=ahead)
    with pytest.raises(AwsError, match=text) as caught:
        _read(client)
    assert caught.value.hint is not None
    assert "clock" in caught.value.hint


def test_a_clock_that_is_a_little_off_is_taken(secrets: SecretsManager, client: SecretsManagerClient) -> None:
    secrets.fail(SecretFault.CLOCK_SKEW, seconds=200)
    assert _read(client)


def test_requests_signed_with_another_key_are_refused(secrets: SecretsManager) -> None:
    client = _client(secrets, key="AKIAOTHER")
    with pytest.raises(AwsError) as caught:
        _read(client)
    client.close()
    assert caught.value.code == "UnrecognizedClientException"


def test_requests_without_a_signature_are_refused(secrets: SecretsManager) -> None:
    request = urllib.request.Request(
        secrets.endpoint, b"{}", {"X-Amz-Target": "secretsmanager.GetSecretValue"}
    )
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=10)
    assert secrets.calls[-1].access_key_id == ""


def test_calls_are_recorded_without_the_stand_ins_own(
    secrets: SecretsManager, client: SecretsManagerClient
) -> None:
    _read(client)
    (call,) = secrets.calls
    assert (call.operation, call.secret) == ("GetSecretValue", "relay/ses")
    assert (call.access_key_id, call.status) == (KEY, 200)


def test_nothing_is_printed(client: SecretsManagerClient, capfd: pytest.CaptureFixture[str]) -> None:
    _read(client)
    assert capfd.readouterr() == ("", "")


def test_what_was_put_is_gone_after_the_end() -> None:
    with SecretsManager() as first:
        first.put("relay/gone", "x")
    with SecretsManager() as second, pytest.raises(second.client.exceptions.ResourceNotFoundException):
        second.client.get_secret_value(SecretId="relay/gone")


def test_one_that_does_not_run_says_so() -> None:
    with pytest.raises(BuilderError, match="is not running"):
        _ = SecretsManager().endpoint


def test_a_taken_port_is_a_clear_error(secrets: SecretsManager) -> None:
    with pytest.raises(BuilderError, match="cannot listen on"):
        SecretsManager(port=secrets.port).start()

"""The metadata stand-in as urllib and boto3 see it: tokens, role credentials, failures."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import RemoteDisconnected

import pytest

from builder.errors import BuilderError
from builder.standin.metadata import Metadata

TOKEN = "X-aws-ec2-metadata-token"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with Metadata(region="eu-west-1", role="relay") as running:
        yield running


def _ask(metadata: Metadata, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(metadata.endpoint + path, method=method, headers=names)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def _token(metadata: Metadata, seconds: int = 60) -> str:
    status, token = _ask(metadata, "/latest/api/token", method="PUT", **{TTL: str(seconds)})
    assert status == 200
    return token


def _get(metadata: Metadata, path: str) -> tuple[int, str]:
    return _ask(metadata, f"/latest/{path}", **{TOKEN: _token(metadata)})


def test_without_a_token_there_is_no_answer(metadata: Metadata) -> None:
    assert _ask(metadata, "/latest/meta-data/instance-id")[0] == 401
    assert _ask(metadata, "/latest/meta-data/instance-id", **{TOKEN: "made up"})[0] == 401


@pytest.mark.parametrize("ttl", ["", "0", "21601", "soon"])
def test_a_token_needs_a_sensible_lifetime(metadata: Metadata, ttl: str) -> None:
    assert _ask(metadata, "/latest/api/token", method="PUT", **{TTL: ttl})[0] == 400


def test_a_forwarded_token_request_is_refused(metadata: Metadata) -> None:
    headers = {TTL: "60", "X-Forwarded-For": "10.0.0.1"}
    assert _ask(metadata, "/latest/api/token", method="PUT", **headers)[0] == 403


def test_a_token_runs_out(metadata: Metadata) -> None:
    token = _token(metadata, seconds=1)
    time.sleep(1.1)
    assert _ask(metadata, "/latest/meta-data/instance-id", **{TOKEN: token})[0] == 401


def test_tokens_can_be_forgotten(metadata: Metadata) -> None:
    token = _token(metadata)
    metadata.forget_tokens()
    assert _ask(metadata, "/latest/meta-data/instance-id", **{TOKEN: token})[0] == 401


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("meta-data/placement/region", "eu-west-1"),
        ("meta-data/placement/availability-zone", "eu-west-1a"),
        ("meta-data/autoscaling/target-lifecycle-state", "InService"),
        ("meta-data/instance-id", "i-0123456789abcdef0"),
        ("meta-data/iam/security-credentials/", "relay"),
        ("meta-data/iam/security-credentials", "relay"),
        ("meta-data/placement/", "availability-zone\nregion"),
    ],
)
def test_the_usual_values_are_there(metadata: Metadata, path: str, value: str) -> None:
    assert _get(metadata, path) == (200, value)


def test_the_identity_document_names_region_and_instance(metadata: Metadata) -> None:
    document = json.loads(_get(metadata, "dynamic/instance-identity/document")[1])
    assert (document["region"], document["instanceId"]) == ("eu-west-1", "i-0123456789abcdef0")


@pytest.mark.parametrize("path", ["meta-data/nothing", "user-data", "meta-data/spot/instance-action"])
def test_what_is_not_there_is_404(metadata: Metadata, path: str) -> None:
    assert _get(metadata, path)[0] == 404


def test_values_can_be_set_and_taken_away(metadata: Metadata) -> None:
    path = "meta-data/autoscaling/target-lifecycle-state"
    metadata.set(path, "Terminated")
    assert _get(metadata, path) == (200, "Terminated")
    metadata.set(path, None)
    assert _get(metadata, path)[0] == 404


def test_role_credentials_have_an_end(metadata: Metadata) -> None:
    metadata.set_credentials("ASIANEW", seconds=120)
    given = json.loads(_get(metadata, "meta-data/iam/security-credentials/relay")[1])
    assert given["Code"] == "Success"
    assert given["AccessKeyId"] == "ASIANEW"
    ends = time.mktime(time.strptime(given["Expiration"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert 60 < ends - time.time() < 180


def test_an_instance_without_a_role_has_no_credentials(metadata: Metadata) -> None:
    metadata.set_role(None)
    assert _get(metadata, "meta-data/iam/security-credentials/")[0] == 404


def test_role_credentials_may_come_late(metadata: Metadata) -> None:
    metadata.fail("meta-data/iam/", times=2)
    statuses = [_get(metadata, "meta-data/iam/security-credentials/")[0] for _ in range(3)]
    assert statuses == [404, 404, 200]


def test_an_answer_can_be_slow_or_none_at_all(metadata: Metadata) -> None:
    token = _token(metadata)
    metadata.fail("meta-data/", status=200, seconds=0.3, times=1)
    metadata.fail("meta-data/", status=0, times=1)
    began = time.monotonic()
    assert _ask(metadata, "/latest/meta-data/instance-id", **{TOKEN: token})[0] == 200
    assert time.monotonic() - began >= 0.3
    with pytest.raises(RemoteDisconnected):
        _ask(metadata, "/latest/meta-data/instance-id", **{TOKEN: token})


def test_failures_last_until_they_are_cleared(metadata: Metadata) -> None:
    metadata.fail("api/token", status=503)
    assert _ask(metadata, "/latest/api/token", method="PUT", **{TTL: "60"})[0] == 503
    metadata.clear()
    assert _token(metadata)


def test_requests_are_recorded(metadata: Metadata) -> None:
    _get(metadata, "meta-data/instance-id")
    put, get = metadata.requests
    assert (put.method, put.path, put.has_token) == ("PUT", "/latest/api/token", False)
    assert (get.path, get.has_token, get.status) == ("/latest/meta-data/instance-id", True, 200)


def test_boto3_finds_the_role_credentials(metadata: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.endpoint)
    credentials = boto3.session.Session().get_credentials()
    assert credentials is not None
    assert credentials.access_key == "ASIASTANDINRELAY"
    assert credentials.token


def test_one_that_does_not_run_says_so() -> None:
    with pytest.raises(BuilderError, match="is not running"):
        _ = Metadata().endpoint


def test_a_taken_port_is_a_clear_error(metadata: Metadata) -> None:
    with pytest.raises(BuilderError, match="cannot listen on"):
        Metadata(port=metadata.port).start()

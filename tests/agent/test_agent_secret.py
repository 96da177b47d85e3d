"""Tests of relay_agent.secret and imds against the stand-ins: each way in which fetching can fail."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_agent import secret as secret_module
from relay_agent.imds import Imds
from relay_agent.secret import Library, SecretStore
from relay_agent.trouble import Trouble

from builder.standin.metadata import Metadata
from builder.standin.secrets import SecretFault, SecretsManager
from tests.agent.relay_world import PASSWORD, SECRET, USER

VALUE = {"username": USER, "password": PASSWORD}


@pytest.fixture
def store(library: Library, secrets: SecretsManager, metadata: Metadata) -> Iterator[SecretStore]:
    secrets.put(SECRET, VALUE)
    imds = Imds(metadata.endpoint, timeout_seconds=1)
    store = SecretStore(library, imds, endpoint=secrets.endpoint)
    yield store
    store.close()


def trouble_of(store: SecretStore, name: str = SECRET, region: str | None = "us-east-1") -> Trouble:
    with pytest.raises(Trouble) as caught:
        store.fetch(name, region)
    shown = f"{caught.value.message} {caught.value.hint}"
    assert PASSWORD not in shown
    assert "only-for-the-stand-in" not in shown
    return caught.value


def test_the_current_version_is_fetched_with_the_roles_key(
    store: SecretStore, secrets: SecretsManager
) -> None:
    version_id = secrets.rotate(SECRET, {"username": USER, "password": "newer"})
    found = store.fetch(SECRET, "us-east-1")
    assert '"newer"' in found.text
    assert found.version_id == version_id
    assert abs(found.created - time.time()) < 60
    assert secrets.calls[-1].access_key_id == "ASIASTANDINRELAY"
    assert "newer" not in repr(found)


def test_the_region_comes_from_the_instance_when_nothing_names_it(
    store: SecretStore, metadata: Metadata
) -> None:
    metadata.set("meta-data/placement/region", "eu-west-3")
    assert store.region_of(SECRET, None) == "eu-west-3"


def test_a_secret_is_asked_for_in_the_region_of_its_arn(store: SecretStore, secrets: SecretsManager) -> None:
    nobody = SecretStore(Library(), Imds("http://127.0.0.1:9"))
    arn = "arn:aws:secretsmanager:ap-south-1:123456789012:secret:relay/ses-AbCdEf"
    assert nobody.region_of(arn, None) == "ap-south-1"
    assert nobody.region_of(arn, "us-east-1") == "ap-south-1"
    assert nobody.region_of(SECRET, "us-east-1") == "us-east-1"
    secrets.put(arn, {"username": USER, "password": "elsewhere"})
    assert "elsewhere" in store.fetch(arn, "us-east-1").text


def test_no_region_anywhere_is_said(store: SecretStore, metadata: Metadata) -> None:
    metadata.set("meta-data/placement/region", None)
    trouble = trouble_of(store, region=None)
    assert trouble.code == "region-missing"
    assert "boot.json" in trouble.message


def test_a_missing_secret_is_named_with_its_region(store: SecretStore) -> None:
    trouble = trouble_of(store, "relay/typo")
    assert (trouble.code, trouble.lasting) == ("secret-missing", True)
    assert "`relay/typo` in us-east-1" in trouble.message


def test_a_secret_that_is_being_deleted_is_told_apart(store: SecretStore, secrets: SecretsManager) -> None:
    secrets.put("relay/gone", VALUE)
    secrets.client.delete_secret(SecretId="relay/gone", RecoveryWindowInDays=7)
    assert trouble_of(store, "relay/gone").code == "secret-deleted"


def test_a_binary_secret_is_a_wrong_shape(store: SecretStore, secrets: SecretsManager) -> None:
    secrets.client.create_secret(Name="relay/binary", SecretBinary=b"hunter22")
    try:
        assert trouble_of(store, "relay/binary").code == "secret-shape"
    finally:
        secrets.delete("relay/binary")


@pytest.mark.parametrize(
    ("fault", "code", "lasting"),
    [
        (SecretFault.DENIED, "access-denied", True),
        (SecretFault.KMS_DENIED, "access-denied", True),
        (SecretFault.THROTTLED, "throttled", False),
        (SecretFault.ERROR_500, "endpoint-error", False),
        (SecretFault.DROPPED, "endpoint-unreachable", False),
    ],
)
def test_each_refusal_has_its_own_name(
    store: SecretStore, secrets: SecretsManager, fault: SecretFault, code: str, lasting: bool
) -> None:
    secrets.fail(fault, times=1)
    trouble = trouble_of(store)
    assert (trouble.code, trouble.lasting) == (code, lasting)
    assert store.fetch(SECRET, "us-east-1").version_id


def test_a_role_key_that_is_not_known_yet_is_fetched_again(
    store: SecretStore, secrets: SecretsManager, metadata: Metadata
) -> None:
    secrets.access_keys = {"ASIAOTHER"}
    try:
        assert trouble_of(store).code == "role-refused"
        metadata.set_credentials("ASIAOTHER", seconds=3600)
        assert store.fetch(SECRET, "us-east-1").version_id
    finally:
        secrets.access_keys = None


def test_a_wrong_clock_is_corrected_once_from_the_servers_date(
    store: SecretStore, secrets: SecretsManager
) -> None:
    secrets.fail(SecretFault.CLOCK_SKEW, seconds=3600)
    assert store.fetch(SECRET, "us-east-1").version_id
    assert 3500 < store.offset_seconds < 3700
    assert [call.status for call in secrets.calls[-2:]] == [400, 200]


def test_a_clock_that_no_correction_mends_is_said(store: SecretStore, secrets: SecretsManager) -> None:
    secrets.fail(SecretFault.CLOCK_SKEW, seconds=3600, times=1)
    secrets.fail(SecretFault.CLOCK_SKEW, seconds=-3600, times=1)
    trouble = trouble_of(store)
    assert trouble.code == "clock-skew"
    assert "timedatectl" in str(trouble.hint)


def test_a_slow_endpoint_is_told_from_one_that_is_down(
    store: SecretStore, secrets: SecretsManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secret_module, "_READ_SECONDS", 0.3)
    secrets.fail(SecretFault.SLOW, seconds=1, times=1)
    assert trouble_of(store).code == "endpoint-slow"


def test_an_endpoint_that_is_down_is_named(library: Library, metadata: Metadata) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    store = SecretStore(library, Imds(metadata.endpoint), endpoint=f"http://127.0.0.1:{port}")
    trouble = trouble_of(store)
    assert trouble.code == "endpoint-unreachable"
    assert f"127.0.0.1:{port}" in trouble.message


def test_role_credentials_that_come_late_are_waited_for(store: SecretStore, metadata: Metadata) -> None:
    metadata.fail("meta-data/iam/", times=1)
    assert trouble_of(store).code == "role-missing"
    assert store.fetch(SECRET, "us-east-1").version_id


def test_an_instance_without_a_role_is_told_how_to_get_one(store: SecretStore, metadata: Metadata) -> None:
    metadata.set_role(None)
    trouble = trouble_of(store)
    assert trouble.code == "role-missing"
    assert "instance profile" in str(trouble.hint)


def test_role_credentials_are_renewed_before_they_end(
    library: Library, secrets: SecretsManager, metadata: Metadata
) -> None:
    secrets.put(SECRET, VALUE)
    now = [time.time()]
    store = SecretStore(library, Imds(metadata.endpoint), endpoint=secrets.endpoint, clock=lambda: now[0])
    store.fetch(SECRET, "us-east-1")
    metadata.set_credentials("ASIARENEWED", seconds=12 * 3600)
    store.fetch(SECRET, "us-east-1")
    assert secrets.calls[-1].access_key_id == "ASIASTANDINRELAY"
    now[0] += 6 * 3600 - 100
    store.fetch(SECRET, "us-east-1")
    assert secrets.calls[-1].access_key_id == "ASIARENEWED"
    store.close()


def test_a_metadata_token_that_was_forgotten_is_renewed(store: SecretStore, metadata: Metadata) -> None:
    imds = Imds(metadata.endpoint)
    assert imds.instance_id() == "i-0123456789abcdef0"
    metadata.forget_tokens()
    assert imds.instance_id() == "i-0123456789abcdef0"


def test_a_metadata_service_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Trouble) as caught:
        Imds(f"http://127.0.0.1:{port}", timeout_seconds=1).role_credentials()
    assert caught.value.code == "imds-unreachable"


@pytest.mark.parametrize(
    ("status", "code"), [(500, "imds-broken"), (401, "imds-broken"), (0, "imds-unreachable")]
)
def test_a_metadata_service_that_is_ill_is_said(metadata: Metadata, status: int, code: str) -> None:
    metadata.fail("meta-data/instance-id", status=status)
    with pytest.raises(Trouble) as caught:
        Imds(metadata.endpoint, timeout_seconds=1).instance_id()
    assert caught.value.code == code


def test_a_slow_metadata_service_is_bounded(metadata: Metadata) -> None:
    metadata.fail("api/token", status=200, seconds=1.5)
    started = time.monotonic()
    with pytest.raises(Trouble):
        Imds(metadata.endpoint, timeout_seconds=0.3).instance_id()
    assert time.monotonic() - started < 1.2


def test_a_proxy_in_the_environment_is_not_told_the_roles_key(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert Imds(metadata.endpoint).instance_id()


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    library = Library()
    with pytest.raises(Trouble) as caught:
        library.session(timeout_seconds=5)
    assert caught.value.code == "library-missing"
    assert "python3-boto3" in str(caught.value.hint)

"""The source AMI is pinned, the caller's address is one network, and user data fits EC2."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import boto3
import pytest
from moto import mock_aws

from builder import ami, workspace
from builder.ami import SourceAmi
from builder.errors import BuilderError
from builder.releases import get_release

REGION = "us-east-1"
# One of the images that moto has in every region.
KNOWN = "ami-785db401"
NOBLE = get_release("ubuntu-24.04")


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        yield


@pytest.fixture
def address() -> Iterator[tuple[str, list[str]]]:
    """An address service, and the answers that it will give."""
    answers: list[str] = []

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[0].encode())

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.aws
@pytest.mark.usefixtures("ec2")
def test_named_ami_is_looked_up() -> None:
    source = ami.resolve_source(NOBLE, region=REGION, ami_id=KNOWN)
    assert (source.ami_id, source.region, source.found_by) == (KNOWN, REGION, "--source-ami")
    assert source.name


@pytest.mark.usefixtures("ec2")
def test_ami_of_another_architecture_is_refused() -> None:
    with pytest.raises(BuilderError, match="is for x86_64, but the image is baked for arm64"):
        ami.resolve_source(NOBLE, region=REGION, architecture="arm64", ami_id=KNOWN)


@pytest.mark.usefixtures("ec2")
def test_ami_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BuilderError, match="look up AMI `ami-00000000000000000` in `us-east-1`"):
        ami.resolve_source(NOBLE, region=REGION, ami_id="ami-00000000000000000")


@pytest.mark.usefixtures("ec2")
def test_release_without_a_public_ami_names_the_parameter() -> None:
    with pytest.raises(
        BuilderError, match=r"no public AMI of ubuntu-24\.04 for amd64.*ebs-gp3/ami-id"
    ) as error:
        ami.resolve_source(NOBLE, region=REGION)
    assert error.value.hint == "Name one with `--source-ami ami-…`"


def test_no_credentials_is_a_clear_error() -> None:
    with pytest.raises(BuilderError, match="there are no AWS credentials"):
        ami.resolve_source(NOBLE, region=REGION, ami_id=KNOWN)


def test_parameters_are_those_of_the_distributions() -> None:
    assert ami.parameter_names(NOBLE, "arm64")[0] == (
        "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id"
    )
    assert ami.parameter_names(get_release("debian-12"), "amd64") == (
        "/aws/service/debian/release/12/latest/amd64",
    )


@pytest.mark.parametrize(
    ("given", "network"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("203.0.113.7/24", "203.0.113.0/24"),
        ("2001:db8::1", "2001:db8::1/128"),
    ],
)
def test_given_network_is_taken(given: str, network: str) -> None:
    assert ami.caller_cidr(given) == network


@pytest.mark.parametrize(
    "given", ["203.0.0.0/16", "2001:db8::/32", "10.0.0.0/8", "100.64.0.0/10", "fd00::/8"]
)
def test_network_of_one_site_or_a_private_one_may_be_wide(given: str) -> None:
    assert ami.caller_cidr(given) == given


@pytest.mark.parametrize("given", ["0.0.0.0/1", "203.0.0.0/15", "10.0.0.0/7", "2001:db0::/31", "8000::/1"])
def test_network_wider_than_any_one_site_is_refused(given: str) -> None:
    with pytest.raises(
        BuilderError, match=r"would let \d+ addresses reach .* a public network may be a /"
    ) as error:
        ami.caller_cidr(given)
    assert error.value.hint is not None
    assert "--ssh-from" in error.value.hint


@pytest.mark.parametrize("given", ["0.0.0.0/0", "::/0"])
def test_everybody_is_no_network_for_ssh(given: str) -> None:
    with pytest.raises(BuilderError, match="would let everybody reach"):
        ami.caller_cidr(given)


def test_own_address_is_asked_for(address: tuple[str, list[str]]) -> None:
    url, answers = address
    answers.append("198.51.100.9\n")
    assert ami.caller_cidr(url=url) == "198.51.100.9/32"


def test_answer_that_is_no_address_is_not_believed(address: tuple[str, list[str]]) -> None:
    url, answers = address
    answers.append("<html>log in</html>")
    with pytest.raises(BuilderError, match="is no network") as error:
        ami.caller_cidr(url=url)
    assert error.value.hint is not None
    assert "--ssh-from" in error.value.hint


def test_unreachable_address_service_names_the_flag() -> None:
    with pytest.raises(BuilderError, match="cannot be asked for") as error:
        ami.caller_cidr(url="http://127.0.0.1:9", timeout_seconds=2)
    assert error.value.hint == "Give it with `--ssh-from 203.0.113.7/32`"


def test_user_data_beyond_the_limit_is_refused_before_launch(tmp_path: Path) -> None:
    path = tmp_path / "user-data"
    path.write_text("x" * 16384)
    ami.check_user_data(path)
    path.write_text("x" * 16385)
    with pytest.raises(BuilderError, match="has 16385 bytes; EC2 takes 16384"):
        ami.check_user_data(path)


def test_values_carry_tags_and_the_endpoint_only_when_there_is_one(tmp_path: Path) -> None:
    source = SourceAmi(KNOWN, "x", REGION, "--source-ami")
    with workspace.create(tmp_path, "ses", "b1") as work:
        work.write({"seed/user-data": "#cloud-config\n"})
        tags = ami.tags(work, key="k", preset="ses", source=source)
        plain = ami.values(work, source, tags=tags, ssh_from="203.0.113.7/32")
        private = ami.values(
            work, source, tags=tags, ssh_from="203.0.113.7/32", endpoint="https://ec2.example"
        )
    assert tags["builder:bake-id"] == "b1"
    assert plain["ami_name"] == "ses-b1"
    assert "endpoint" not in plain
    assert (private["endpoint"], private["skip_checks"]) == ("https://ec2.example", True)


def test_private_endpoint_is_read_as_awss_programs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ami.private_endpoint() is None
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://all.example")
    assert ami.private_endpoint() == "https://all.example"
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", "https://ec2.example")
    assert ami.private_endpoint() == "https://ec2.example"


def test_own_key_is_boto3s(monkeypatch: pytest.MonkeyPatch) -> None:
    from builder import aws

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    assert boto3.session.Session().get_credentials() is not None
    assert aws.process_environment(REGION, endpoint_ec2="https://ec2.example") == {
        "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token",
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL_EC2": "https://ec2.example",
    }

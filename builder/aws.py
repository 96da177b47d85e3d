"""The one door to AWS: clients, and boto3's errors turned into ours."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, overload
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.loaders import Loader, create_loader

from builder.errors import BuilderError

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_sts import STSClient

# AWS itself names the action and the resource, mostly.
_PERMISSION = "Give whoever asks this permission; `aws sts get-caller-identity` says who that is"

# What the caller can do about the codes that are met most.
_HINTS = {
    "AccessDeniedException": _PERMISSION,
    "UnauthorizedOperation": _PERMISSION,
    "ExpiredTokenException": "Log in again, for example with `aws sso login`",
    "ExpiredToken": "Log in again, for example with `aws sso login`",
    "InvalidSignatureException": "Set this machine's clock: signatures are valid for 5 minutes",
    "UnrecognizedClientException": "Check which credentials are used: `aws sts get-caller-identity`",
    "InvalidClientTokenId": "Check which credentials are used: `aws sts get-caller-identity`",
    "AuthFailure": "Check which credentials are used: `aws sts get-caller-identity`",
}


class AwsError(BuilderError):
    """A call to AWS failed; `code` is AWS's own, as `ResourceNotFoundException`, or empty."""

    def __init__(self, message: str, *, code: str, hint: str | None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


@dataclass(frozen=True)
class Credentials:
    """Credentials given explicitly; without them boto3 finds them as the `aws` command does."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(access_key_id={self.access_key_id!r}, …)"


@overload
def client(
    service: Literal["secretsmanager"],
    *,
    region: str,
    endpoint: str | None = None,
    credentials: Credentials | None = None,
    timeout_seconds: float = 10,
    attempts: int = 4,
) -> SecretsManagerClient: ...
@overload
def client(
    service: Literal["ec2"],
    *,
    region: str,
    endpoint: str | None = None,
    credentials: Credentials | None = None,
    timeout_seconds: float = 10,
    attempts: int = 4,
) -> EC2Client: ...
@overload
def client(
    service: Literal["ssm"],
    *,
    region: str,
    endpoint: str | None = None,
    credentials: Credentials | None = None,
    timeout_seconds: float = 10,
    attempts: int = 4,
) -> SSMClient: ...
@overload
def client(
    service: Literal["sts"],
    *,
    region: str,
    endpoint: str | None = None,
    credentials: Credentials | None = None,
    timeout_seconds: float = 10,
    attempts: int = 4,
) -> STSClient: ...
def client(
    service: Literal["secretsmanager", "ec2", "ssm", "sts"],
    *,
    region: str,
    endpoint: str | None = None,
    credentials: Credentials | None = None,
    timeout_seconds: float = 10,
    attempts: int = 4,
) -> Any:
    """Return a boto3 client whose every wait is bounded; `endpoint` replaces AWS's own.

    Nothing is called yet. Wrap the calls in `calling(…)`. `attempts` counts the first try.
    """
    given = credentials
    with calling(f"prepare for `{service}` in `{region}`"):
        return _session().client(
            service,
            region_name=region,
            endpoint_url=endpoint,
            aws_access_key_id=given.access_key_id if given else None,
            aws_secret_access_key=given.secret_access_key if given else None,
            aws_session_token=given.session_token if given else None,
            config=Config(
                connect_timeout=timeout_seconds,
                read_timeout=timeout_seconds,
                retries={"mode": "standard", "total_max_attempts": attempts},
                # A proxy of this machine cannot reach a stand-in on its loopback.
                proxies={} if _is_loopback(endpoint) else None,
            ),
        )


def _session() -> boto3.session.Session:
    """Make a session that finds credentials anew, and shares with the others what boto3 knows of services."""
    core = botocore.session.get_session()
    core.register_component("data_loader", _service_models(core.get_config_variable("data_path")))
    return boto3.session.Session(botocore_session=core)


@cache
def _service_models(data_path: str | None) -> Loader:
    # A session would read a megabyte of JSON for each client, which takes three quarters of its making.
    return create_loader(data_path)


@contextmanager
def calling(what: str) -> Iterator[None]:
    """Turn boto3's errors in the block into AwsError: `Cannot WHAT: code: message`."""
    try:
        yield
    except ClientError as error:
        raise _from_answer(what, error) from error
    except NoCredentialsError as error:
        raise AwsError(
            f"Cannot {what}: there are no AWS credentials",
            code="NoCredentials",
            hint="Log in with `aws configure sso` or set AWS_PROFILE",
        ) from error
    except BotoCoreError as error:
        raise AwsError(f"Cannot {what}: {error}", code="", hint="Check region and network") from error
    except ValueError as error:  # botocore: an endpoint that is no URL
        raise AwsError(f"Cannot {what}: {error}", code="", hint="Check the endpoint") from error


def who_am_i(*, timeout_seconds: float = 5) -> str:
    """Return the caller's ARN and where its credentials were found: `…:user/me (from sso)`."""
    with calling("ask AWS who we are"):
        session = boto3.session.Session()
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        region = session.region_name or "us-east-1"
        sts = client("sts", region=region, timeout_seconds=timeout_seconds, attempts=1)
        return f"{sts.get_caller_identity()['Arn']} (from {credentials.method})"


def process_environment(region: str, *, endpoint_ec2: str | None = None) -> dict[str, str]:
    """Return the variables that hand our credentials to a program: environment only, never arguments.

    What boto3 found (SSO, a role, a profile) is passed on as plain keys, because older programs know nothing
    else. `endpoint_ec2` is for a private endpoint.
    """
    with calling("find AWS credentials"):
        found = boto3.session.Session().get_credentials()
        if found is None:
            raise NoCredentialsError
        keys = found.get_frozen_credentials()
    variables = {
        "AWS_ACCESS_KEY_ID": keys.access_key or "",
        "AWS_SECRET_ACCESS_KEY": keys.secret_key or "",
        "AWS_SESSION_TOKEN": keys.token or "",
        "AWS_REGION": region,
        "AWS_ENDPOINT_URL_EC2": endpoint_ec2 or "",
    }
    return {name: value for name, value in variables.items() if value}


def _from_answer(what: str, error: ClientError) -> AwsError:
    answer = error.response.get("Error", {})
    code = str(answer.get("Code", ""))
    return AwsError(
        f"Cannot {what}: {code}: {answer.get('Message', '')}".rstrip(": "),
        code=code,
        hint=_HINTS.get(code),
    )


def _is_loopback(endpoint: str | None) -> bool:
    host = urlsplit(endpoint or "").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Fetch the credential from AWS Secrets Manager, and say in one word why when it cannot be had."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Callable

from relay_agent import logs
from relay_agent.imds import Imds, RoleCredentials
from relay_agent.trouble import Trouble

_ARN_REGION = re.compile(r"arn:[a-z-]+:secretsmanager:([a-z0-9-]+):")
# Stages of a secret: the version that counts, and the one that counted before it.
CURRENT, PREVIOUS = "AWSCURRENT", "AWSPREVIOUS"
_CONNECT_SECONDS = 5
_READ_SECONDS = 10

# What Secrets Manager's own error codes mean for us; https://docs.aws.amazon.com/secretsmanager/latest/apireference/
_THROTTLING = {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"}
_DENIED = {"AccessDeniedException", "AccessDenied", "DecryptionFailure", "KMSAccessDeniedException"}
_BAD_ROLE = {
    "UnrecognizedClientException",
    "ExpiredTokenException",
    "ExpiredToken",
    "InvalidClientTokenId",
    "IncompleteSignature",
}
_SKEW = {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}
_SIGNATURE = {"InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure"}
# Secrets Manager accepts about five minutes; less than this is no explanation for a refused signature.
_SKEW_SECONDS = 240


@dataclass(frozen=True)
class SecretVersion:
    """A secret as it was fetched; `created` is in seconds since the epoch, 0 when it is not known."""

    text: str = field(repr=False)
    version_id: str = ""
    created: float = 0.0


def read_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a secret's text is; None when it is none, or when no file can hold it.

    JSON can be nested deeper than Python reads, and spell half a character, which no encoding carries.
    """
    try:
        document = json.loads(text)
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


class Library:
    """The AWS client library, imported in a thread of its own.

    Importing it takes 2.5 s under software emulation, which is time that `boot.json` and Postfix need
    anyway. It is botocore, the part of python3-boto3 that has the client; boto3 around it only adds time.
    """

    def __init__(self) -> None:
        self._thread = self._new_thread()
        self._session: Any = None
        self._error: str | None = None
        self.seconds = 0.0

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._load, name="aws-library", daemon=True)

    def start(self) -> None:
        """Begin to import."""
        self._thread.start()

    def session(self, *, timeout_seconds: float = 120) -> Any:
        """Return botocore's session when it is there. Errors: Trouble `library-missing`, `library-slow`."""
        if self._thread.ident is None:
            self.start()
        self._thread.join(timeout_seconds)
        if self._session is None and not self._thread.is_alive():
            # The next call tries again: it may have been memory or a disk, or be installed meanwhile.
            self._thread = self._new_thread()
            raise Trouble(
                "library-missing",
                f"The AWS library cannot be imported ({self._error or 'it broke while it was loaded'})",
                hint="`apt-get install python3-boto3`; an image without it was not baked by builder",
                lasting=True,
            )
        if self._session is None:
            raise Trouble("library-slow", f"The AWS library is not there after {timeout_seconds:.0f} s")
        return self._session

    def _load(self) -> None:
        started = time.monotonic()
        self._error = None
        try:
            import botocore.session
        except ImportError as error:
            self._error = str(error)
            return
        session = botocore.session.Session()
        # The first client reads megabytes of descriptions, which the session keeps: make one for nothing.
        _client(session, "us-east-1", "http://127.0.0.1:9", RoleCredentials("warm-up", "warm-up", ""))
        self._session = session
        self.seconds = time.monotonic() - started


class SecretStore:
    """Secrets Manager as this instance's role sees it; one try per call, the caller tries again."""

    def __init__(
        self,
        library: Library,
        imds: Imds,
        *,
        endpoint: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._library = library
        self._imds = imds
        self._endpoint = endpoint
        self._clock = clock
        self._role: RoleCredentials | None = None
        self._clients: dict[str, Any] = {}
        self._region: str | None = None
        self.offset_seconds = 0.0

    def close(self) -> None:
        """Close the connections; the next fetch opens new ones."""
        for client in self._clients.values():
            if hasattr(client, "close"):  # botocore 1.22 and newer
                client.close()
        self._clients.clear()

    def region_of(self, secret: str, configured: str | None) -> str:
        """Return the region to ask: the one in the ARN, the configured one, or this instance's.

        A secret is nowhere but in the region that its ARN names; the configured one may be the provider's.
        """
        match = _ARN_REGION.match(secret)
        if match:
            return match.group(1)
        if configured:
            return configured
        if self._region is None:
            self._region = self._imds.region()
        return self._region

    def fetch(self, secret: str, configured_region: str | None, stage: str = CURRENT) -> SecretVersion:
        """Fetch the current version of a secret, or that of another stage.

        GetSecretValue also serves to notice a new version: one permission and one call, where DescribeSecret
        would need a second of each. Errors: Trouble; docs/relayctl.md has the table of codes.
        """
        region = self.region_of(secret, configured_region)
        try:
            return self._fetch(secret, region, stage)
        except _Skewed as skewed:
            # Once: with a clock that is only wrong, the second signature is right.
            if abs(self.offset_seconds - skewed.offset) < _SKEW_SECONDS:
                raise Trouble(skewed.code, skewed.message, hint=skewed.hint) from None
            self.offset_seconds = skewed.offset
            return self._fetch(secret, region, stage)

    def _fetch(self, secret: str, region: str, stage: str) -> SecretVersion:
        import botocore.exceptions
        import botocore.parsers

        client = self._client_for(region)
        try:
            answer = client.get_secret_value(SecretId=secret, VersionStage=stage)
        except botocore.exceptions.ClientError as error:
            raise self._explain(error.response, secret, region) from None
        except (
            botocore.exceptions.BotoCoreError,
            botocore.parsers.ResponseParserError,
            ValueError,
            RecursionError,
        ) as error:
            # Also what is no JSON, or no text: a proxy in between.
            raise _by_transport(error, self._endpoint or f"secretsmanager.{region}.amazonaws.com") from None
        text = answer.get("SecretString")
        if not isinstance(text, str):
            raise Trouble(
                "secret-shape",
                f"Secret `{secret}` is binary; expected text that is a JSON object",
                hint=f"Store it again: `builder secret put {secret}`",
                lasting=True,
            )
        logs.hide(text)
        created = answer.get("CreatedDate")
        seconds = created.timestamp() if isinstance(created, datetime) else 0.0
        return SecretVersion(text, str(answer.get("VersionId", "")), seconds)

    def _client_for(self, region: str) -> Any:
        session = self._library.session()
        if self._role is None or not self._role.is_fresh(self._clock()):
            self._role = self._imds.role_credentials()
            self.close()
        if region not in self._clients:
            _correct_clock(self)
            self._clients[region] = _client(session, region, self._endpoint, self._role)
        return self._clients[region]

    def _explain(self, response: Any, secret: str, region: str) -> Trouble:
        error = response.get("Error", {})
        code, said = str(error.get("Code", "")), logs.clean(str(error.get("Message", "")))[:300]
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        where = f"`{secret}` in {region}"
        if code in _SKEW or code in _SIGNATURE:
            offset = _offset(headers.get("date"), self._clock())
            if code in _SKEW or (offset is not None and abs(offset) > _SKEW_SECONDS):
                return _Skewed(offset)
        if code in _BAD_ROLE or code in _SIGNATURE:
            self._role = None
            self.close()
            return Trouble("role-refused", f"Secrets Manager refused the role's credentials: {code} {said}")
        return _by_code(code, said, where, response)


class _Skewed(Trouble):
    """The clock is wrong by `offset` seconds (add it to ours to get theirs)."""

    def __init__(self, offset: float | None) -> None:
        self.offset = offset or 0.0
        amount = f"by {abs(self.offset):.0f} s" if offset else "by minutes"
        super().__init__(
            "clock-skew",
            f"This machine's clock is wrong {amount}, so Secrets Manager refuses its signature",
            hint="`timedatectl`; is a time service running (systemd-timesyncd or chrony)?",
        )


def _by_code(code: str, said: str, where: str, response: Any) -> Trouble:
    if code == "ResourceNotFoundException":
        return Trouble(
            "secret-missing",
            f"There is no secret {where} with a current version",
            hint="Create it: `builder secret put`; or launch with the right name and region",
            lasting=True,
        )
    if code == "InvalidRequestException":
        return Trouble("secret-deleted", f"Secret {where} cannot be read: {said}", lasting=True)
    if code in _DENIED:
        return Trouble(
            "access-denied",
            f"The role of this instance may not read secret {where}: {said}",
            hint="Allow secretsmanager:GetSecretValue on its ARN (and kms:Decrypt on its key)",
            lasting=True,
        )
    if code in _THROTTLING:
        return Trouble("throttled", f"Secrets Manager limits the rate of requests: {code}")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return Trouble("endpoint-error", f"Secrets Manager answered {status} {code} for secret {where}: {said}")


def _by_transport(error: Exception, endpoint: str) -> Trouble:
    name = type(error).__name__
    if "SSL" in name:
        return Trouble(
            "endpoint-untrusted",
            f"Secrets Manager at {endpoint} showed a certificate that cannot be trusted",
            hint="Is there a proxy in between?",
        )
    if "Timeout" in name:
        return Trouble(
            "endpoint-slow",
            f"Secrets Manager at {endpoint} did not answer within {_READ_SECONDS} s",
            hint="Check routes, security groups and the VPC endpoint",
        )
    if "Connect" in name or "Connection" in name:
        return Trouble(
            "endpoint-unreachable",
            f"Secrets Manager at {endpoint} cannot be reached",
            hint="Check routes, security groups, the VPC endpoint and DNS",
        )
    return Trouble("endpoint-error", f"Secrets Manager at {endpoint} gave no proper answer ({name})")


def _offset(date: str | None, now: float) -> float | None:
    try:
        return parsedate_to_datetime(date or "").timestamp() - now
    except (TypeError, ValueError):
        return None


def _client(session: Any, region: str, endpoint: str | None, role: RoleCredentials) -> Any:
    from botocore.config import Config

    # Everything is given: the library's own search (environment, files) differs between the releases.
    return session.create_client(
        "secretsmanager",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=role.access_key_id,
        aws_secret_access_key=role.secret_access_key,
        aws_session_token=role.token or None,
        config=Config(
            connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS, retries={"max_attempts": 0}
        ),
    )


def _correct_clock(store: SecretStore) -> None:
    """Make the library sign with our clock plus `offset_seconds`; it has no setting for that.

    The steps are those of `SigV4Auth.add_auth`, the same from botocore 1.14 to 1.44 but for the time.
    """
    import botocore.auth

    class Signer(botocore.auth.SigV4Auth):
        def add_auth(self, request: Any) -> None:
            if not store.offset_seconds:
                super().add_auth(request)
                return
            moment = datetime.fromtimestamp(time.time() + store.offset_seconds, timezone.utc)
            request.context["timestamp"] = moment.strftime("%Y%m%dT%H%M%SZ")
            self._modify_request_before_signing(request)  # type: ignore[attr-defined]
            text = self.string_to_sign(request, self.canonical_request(request))
            signature = self.signature(text, request)
            self._inject_signature_to_request(request, signature)  # type: ignore[attr-defined]

    botocore.auth.AUTH_TYPE_MAPS["v4"] = Signer

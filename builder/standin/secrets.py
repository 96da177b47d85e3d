"""A Secrets Manager on loopback: a moto server, with faults in front of it.

    with SecretsManager() as secrets:
        secrets.endpoint                                  # http://127.0.0.1:PORT
        secrets.put("relay/ses", {"username": "u", "password": "p"})
        secrets.rotate("relay/ses", {"username": "u", "password": "new"})
        secrets.fail(SecretFault.THROTTLED, times=2)      # then as before
        secrets.calls[-1].operation, .secret, .access_key_id, .status

    fault         what a client sees
    denied        400 AccessDeniedException
    kms_denied    400 AccessDeniedException: Access to KMS is not allowed
    throttled     400 ThrottlingException: Rate exceeded
    error_500     500 InternalServiceError
    slow          the right answer, `seconds` late
    dropped       the connection breaks without an answer
    clock_skew    the server's clock, in its Date header too, is `seconds` ahead: requests signed more than
                  five minutes off are refused with InvalidSignatureException, others are answered

moto keeps its secrets per process, so two of these in one process share them; each deletes its own when it
stops.
"""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import formatdate
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import BaseWSGIServer, make_server

from builder import aws
from builder.config import arn_region
from builder.standin.server import LocalServer

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

_ADMIN = aws.Credentials("AKIASTANDINADMIN", "only-for-the-stand-in")
_ACCESS_KEY = re.compile(r"Credential=([^/,]+)/")
_SIGNATURE_SECONDS = 300  # AWS General Reference, "Signature Version 4": valid for five minutes

StartResponse = Callable[..., Any]
WsgiApp = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class SecretFault(StrEnum):
    """What can go wrong in front of the secrets; the table is in the text of this module."""

    DENIED = "denied"
    KMS_DENIED = "kms_denied"
    THROTTLED = "throttled"
    ERROR_500 = "error_500"
    SLOW = "slow"
    DROPPED = "dropped"
    CLOCK_SKEW = "clock_skew"


# Status, code and text as botocore's service model and AWS's documentation have them.
_ANSWERS: Mapping[SecretFault, tuple[int, str, str]] = {
    SecretFault.DENIED: (
        400,
        "AccessDeniedException",
        "User is not authorized to perform: secretsmanager:GetSecretValue on this resource because "
        "no identity-based policy allows the action",
    ),
    SecretFault.KMS_DENIED: (400, "AccessDeniedException", "Access to KMS is not allowed"),
    SecretFault.THROTTLED: (400, "ThrottlingException", "Rate exceeded"),
    SecretFault.ERROR_500: (500, "InternalServiceError", "An error occurred on the server side."),
}


@dataclass(frozen=True)
class Call:
    """One request that came in; `status` is 0 when the connection was broken."""

    time: float
    operation: str
    secret: str
    access_key_id: str
    status: int


@dataclass(frozen=True)
class _Set:
    fault: SecretFault
    times: int | None
    seconds: float
    operation: str | None


class SecretsManager(LocalServer):
    """A local Secrets Manager; with `access_keys` it refuses requests signed with any other key."""

    title = "Secrets Manager stand-in"

    def __init__(
        self,
        *,
        region: str = "us-east-1",
        address: str = "127.0.0.1",
        port: int = 0,
        access_keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__(address=address, port=port)
        self.region = region
        self.access_keys = None if access_keys is None else set(access_keys)
        self._clients: dict[str, SecretsManagerClient] = {}
        self._names: set[str] = set()
        self._front = _Front(self)

    def _listen(self, address: str, port: int) -> BaseWSGIServer:
        return make_server(address, port, self._front, threaded=True, request_handler=_SilentHandler)

    def stop(self) -> None:
        """Stop, and delete what was put here."""
        if self.is_running:
            for name in tuple(self._names):
                self.delete(name)
        super().stop()
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    # -- secrets

    @property
    def client(self) -> SecretsManagerClient:
        """A client that is let through whatever fault is set."""
        return self._client_in(self.region)

    def _client_for(self, name: str) -> SecretsManagerClient:
        """Return the client of the region where a secret is: that of its ARN, if it is named so."""
        return self._client_in(arn_region(name) or self.region)

    def _client_in(self, region: str) -> SecretsManagerClient:
        if region not in self._clients:
            self._clients[region] = aws.client(
                "secretsmanager", region=region, endpoint=self.endpoint, credentials=_ADMIN
            )
        return self._clients[region]

    def put(self, name: str, value: Mapping[str, str] | str) -> str:
        """Create a secret, or give it a new current version; return the version's id."""
        self._names.add(name)
        client = self._client_for(name)
        with aws.calling(f"write the secret `{name}`"):
            try:
                return client.create_secret(Name=name, SecretString=_text(value))["VersionId"]
            except client.exceptions.ResourceExistsException:
                return self.rotate(name, value)

    def rotate(self, name: str, value: Mapping[str, str] | str) -> str:
        """Give a secret a new current version, the one before becomes AWSPREVIOUS; return the new id."""
        with aws.calling(f"rotate the secret `{name}`"):
            answer = self._client_for(name).put_secret_value(SecretId=name, SecretString=_text(value))
            return answer["VersionId"]

    def delete(self, name: str) -> None:
        """Delete a secret at once."""
        with aws.calling(f"delete the secret `{name}`"):
            self._client_for(name).delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
        self._names.discard(name)

    # -- faults

    def fail(
        self,
        fault: SecretFault,
        *,
        times: int | None = None,
        seconds: float = 0,
        operation: str | None = None,
    ) -> None:
        """Set a fault for the next `times` requests (of one operation), without `times` until `clear`.

        Faults that are set act one after the other: the first one that has not run out.
        """
        self._front.add(_Set(fault, times, seconds, operation))

    def clear(self) -> None:
        """Work as it should again."""
        self._front.clear()

    @property
    def calls(self) -> tuple[Call, ...]:
        """The requests of others, in the order in which they were answered."""
        return self._front.calls


class _Front:
    """The WSGI application in front of moto: records, refuses, delays."""

    def __init__(self, owner: SecretsManager) -> None:
        self._owner = owner
        self._moto = _moto()
        self._lock = threading.Lock()
        self._faults: list[_Set] = []
        self._calls: list[Call] = []

    @property
    def calls(self) -> tuple[Call, ...]:
        with self._lock:
            return tuple(self._calls)

    def add(self, fault: _Set) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        call = _read_call(environ)
        if call.access_key_id == _ADMIN.access_key_id:
            return self._moto(environ, start_response)
        fault = self._take(call.operation)
        if fault is not None and fault.fault is SecretFault.SLOW:
            time.sleep(fault.seconds)
        if fault is not None and fault.fault is SecretFault.DROPPED:
            self._record(call, 0)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError  # werkzeug then writes no answer
        now = time.time() + (fault.seconds if fault and fault.fault is SecretFault.CLOCK_SKEW else 0)

        def record(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            self._record(call, int(status.split()[0]))
            kept = [(name, value) for name, value in headers if name.lower() != "date"]
            return start_response(status, [*kept, ("Date", formatdate(now, usegmt=True))], *more)

        refusal = self._refusal(fault, call, environ, now)
        if refusal is None:
            return self._moto(environ, record)
        status, code, message = refusal
        body = json.dumps({"__type": code, "message": message, "Message": message}).encode()
        kind = ("Content-Type", "application/x-amz-json-1.1")
        record(f"{status} Refused", [kind, ("x-amzn-ErrorType", code)])
        return [body]

    def _take(self, operation: str) -> _Set | None:
        with self._lock:
            for position, item in enumerate(self._faults):
                if item.operation not in (None, operation):
                    continue
                if item.times is not None:
                    left = replace(item, times=item.times - 1)
                    self._faults[position : position + 1] = [left] if left.times else []
                return item
            return None

    def _refusal(
        self, fault: _Set | None, call: Call, environ: Mapping[str, Any], now: float
    ) -> tuple[int, str, str] | None:
        if fault is not None and fault.fault in _ANSWERS:
            return _ANSWERS[fault.fault]
        if not call.access_key_id:
            return 400, "MissingAuthenticationTokenException", "Missing Authentication Token"
        known = self._owner.access_keys
        if known is not None and call.access_key_id not in known:
            text = "The security token included in the request is invalid."
            return 400, "UnrecognizedClientException", text
        return _check_clock(str(environ.get("HTTP_X_AMZ_DATE", "")), now)

    def _record(self, call: Call, status: int) -> None:
        with self._lock:
            self._calls.append(replace(call, status=status))


@cache
def _moto() -> WsgiApp:
    app: WsgiApp = DomainDispatcherApplication(create_backend_app)
    return app


class _SilentHandler(MotoRequestHandler):
    """Requests are recorded, not printed."""

    def log(self, type: str, message: str, *args: Any) -> None:
        return

    def send_response(self, code: int, message: str | None = None) -> None:
        # Without the server's own Date: each answer has one already, which may be wrong on purpose.
        self.send_response_only(code, message)


def _read_call(environ: dict[str, Any]) -> Call:
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length) if length else b""
    environ["wsgi.input"] = io.BytesIO(body)
    try:
        sent = json.loads(body or b"{}")
    except ValueError:
        sent = {}
    secret = sent.get("SecretId", sent.get("Name", "")) if isinstance(sent, dict) else ""
    key = _ACCESS_KEY.search(str(environ.get("HTTP_AUTHORIZATION", "")))
    operation = str(environ.get("HTTP_X_AMZ_TARGET", "")).rpartition(".")[2]
    return Call(time.time(), operation, str(secret), key.group(1) if key else "", 0)


def _check_clock(signed_at: str, now: float) -> tuple[int, str, str] | None:
    try:
        signed = datetime.strptime(signed_at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 400, "IncompleteSignatureException", "The request has no date"
    if abs(now - signed) <= _SIGNATURE_SECONDS:
        return None
    server = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    if signed < now:
        text = f"Signature expired: {signed_at} is now earlier than {server} - 5 min."
    else:
        text = f"Signature not yet current: {signed_at} is still later than {server} + 5 min."
    return 400, "InvalidSignatureException", text


def _text(value: Mapping[str, str] | str) -> str:
    return value if isinstance(value, str) else json.dumps(dict(value))

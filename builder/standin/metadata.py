"""A stand-in for EC2's instance metadata service (IMDSv2): tokens enforced, values that can be changed.

    with Metadata(region="eu-west-1", role="relay") as metadata:
        metadata.endpoint                                          # http://127.0.0.1:PORT
        metadata.set("meta-data/autoscaling/target-lifecycle-state", "Terminated")
        metadata.set("meta-data/spot/instance-action", None)       # not there: 404
        metadata.fail("meta-data/iam/", times=3)                   # role credentials not there yet
        metadata.requests[-1].path, .status

Paths, tokens and statuses: Amazon EC2 User Guide, "Instance metadata categories" and "Use the Instance
Metadata Service to access instance metadata".
"""

from __future__ import annotations

import json
import secrets as tokens
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from builder.standin.server import LocalServer

_TOKEN_HEADER = "x-aws-ec2-metadata-token"  # noqa: S105 (the name of a header)
_TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_PATH = "/latest/api/token"  # noqa: S105 (a path)
_LONGEST_TOKEN_SECONDS = 21600
_ROLES = "meta-data/iam/security-credentials/"
_ACCOUNT = "123456789012"  # moto's


@dataclass(frozen=True)
class Request:
    """One request that came in; `status` 0 means that it got no answer."""

    time: float
    method: str
    path: str
    has_token: bool
    status: int


@dataclass(frozen=True)
class _Failure:
    prefix: str
    status: int
    seconds: float
    times: int | None


class Metadata(LocalServer):
    """A local metadata service of one instance."""

    title = "metadata stand-in"

    def __init__(
        self,
        *,
        region: str = "us-east-1",
        instance_id: str = "i-0123456789abcdef0",
        role: str | None = "relay",
        access_key_id: str = "ASIASTANDINRELAY",
        credentials_seconds: float = 6 * 3600,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(address=address, port=port)
        self._lock = threading.Lock()
        self._values = _instance_values(region, instance_id)
        self._failures: list[_Failure] = []
        self._requests: list[Request] = []
        self._tokens: dict[str, float] = {}
        self._role = role
        self._access_key_id = access_key_id
        self._credentials_seconds = credentials_seconds

    def _listen(self, address: str, port: int) -> _Server:
        return _Server((address, port), self)

    # -- what it says

    def set(self, path: str, value: str | None) -> None:
        """Set what is below `/latest/`, as `meta-data/instance-id`; None takes it away."""
        with self._lock:
            if value is None:
                self._values.pop(path, None)
            else:
                self._values[path] = value

    def set_role(self, role: str | None) -> None:
        """Change the role of the instance; None means that it has none."""
        with self._lock:
            self._role = role

    def set_credentials(self, access_key_id: str, *, seconds: float) -> None:
        """Change the role's credentials to ones that are valid for `seconds` from each request on."""
        with self._lock:
            self._access_key_id = access_key_id
            self._credentials_seconds = seconds

    def forget_tokens(self) -> None:
        """Make every token invalid, as a stop and start of the instance does."""
        with self._lock:
            self._tokens.clear()

    def fail(
        self, prefix: str = "", *, status: int = 404, seconds: float = 0, times: int | None = None
    ) -> None:
        """Answer the next `times` requests below `prefix` with `status`, after `seconds`.

        `prefix` is below `/latest/`, `api/token` is the token's. Status 200 means the right answer, only
        late; status 0 breaks the connection. Without `times` it stays until `clear`.
        """
        with self._lock:
            self._failures.append(_Failure(prefix, status, seconds, times))

    def clear(self) -> None:
        """Work as it should again."""
        with self._lock:
            self._failures.clear()

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests that came in, in the order in which they were answered."""
        with self._lock:
            return tuple(self._requests)

    # -- called by the server's threads

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        """Return status and body for a request, its header names in small letters; status 0 is no answer."""
        failure = self._take_failure(path.removeprefix("/latest/"))
        if failure is not None:
            time.sleep(failure.seconds)
        if failure is not None and failure.status != 200:
            status, body = failure.status, "failed on purpose"
        elif path == _TOKEN_PATH:
            status, body = self._new_token(method, headers)
        else:
            status, body = self._read(method, path, headers.get(_TOKEN_HEADER))
        seen = Request(time.time(), method, path, _TOKEN_HEADER in headers, status)
        with self._lock:
            self._requests.append(seen)
        return status, body

    def _take_failure(self, path: str) -> _Failure | None:
        with self._lock:
            for position, item in enumerate(self._failures):
                if not path.startswith(item.prefix):
                    continue
                if item.times is not None:
                    left = replace(item, times=item.times - 1)
                    self._failures[position : position + 1] = [left] if left.times else []
                return item
            return None

    def _new_token(self, method: str, headers: Mapping[str, str]) -> tuple[int, str]:
        if method != "PUT":
            return 405, "Method Not Allowed"
        if "x-forwarded-for" in headers:
            return 403, "Forbidden"
        ttl = headers.get(_TTL_HEADER, "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= _LONGEST_TOKEN_SECONDS:
            return 400, "Bad Request"
        token = tokens.token_urlsafe(40)
        with self._lock:
            self._tokens[token] = time.monotonic() + int(ttl)
        return 200, token

    def _read(self, method: str, path: str, token: str | None) -> tuple[int, str]:
        with self._lock:
            if self._tokens.get(token or "", 0) < time.monotonic():
                return 401, "Unauthorized"
            if method != "GET":
                return 405, "Method Not Allowed"
            values = {**self._values, **self._role_values()}
        wanted = path.removeprefix("/latest/")
        if wanted in values and path.startswith("/latest/"):
            return 200, values[wanted]
        folder = wanted.rstrip("/") + "/"
        below = {name[len(folder) :] for name in values if name.startswith(folder)}
        entries = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in below})
        return (200, "\n".join(entries)) if entries and path.startswith("/latest/") else (404, "Not Found")

    def _role_values(self) -> dict[str, str]:
        if self._role is None:
            return {}
        now = time.time()
        credentials = {
            "Code": "Success",
            "LastUpdated": _iso(now),
            "Type": "AWS-HMAC",
            "AccessKeyId": self._access_key_id,
            "SecretAccessKey": "only-for-the-stand-in",
            "Token": "only-for-the-stand-in",
            "Expiration": _iso(now + self._credentials_seconds),
        }
        return {_ROLES + self._role: json.dumps(credentials, indent=2)}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], metadata: Metadata) -> None:
        self.metadata = metadata
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # a client that has gone


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 30

    def do_GET(self) -> None:
        self._respond()

    def do_PUT(self) -> None:
        self._respond()

    def _respond(self) -> None:
        path = self.path.partition("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, body = self.server.metadata.answer(self.command, path, headers)
        if status == 0:
            self.close_connection = True
            return
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        return


def _instance_values(region: str, instance_id: str) -> dict[str, str]:
    document = {
        "accountId": _ACCOUNT,
        "architecture": "x86_64",
        "availabilityZone": f"{region}a",
        "imageId": "ami-0123456789abcdef0",
        "instanceId": instance_id,
        "instanceType": "t3.small",
        "pendingTime": "2026-11-22T00:00:00Z",
        "privateIp": "10.0.2.15",
        "region": region,
        "version": "2017-09-30",
    }
    return {
        "meta-data/ami-id": "ami-0123456789abcdef0",
        "meta-data/autoscaling/target-lifecycle-state": "InService",
        "meta-data/hostname": f"ip-10-0-2-15.{region}.compute.internal",
        "meta-data/instance-id": instance_id,
        "meta-data/instance-type": "t3.small",
        "meta-data/local-ipv4": "10.0.2.15",
        "meta-data/placement/availability-zone": f"{region}a",
        "meta-data/placement/region": region,
        "dynamic/instance-identity/document": json.dumps(document, indent=2),
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""The instance metadata service (IMDSv2 only): region, instance id and the role's credentials."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime, timezone

from relay_agent import logs
from relay_agent.trouble import Trouble

DEFAULT_ENDPOINT = "http://169.254.169.254"
_TOKEN_SECONDS = 21600
_LARGEST_ANSWER = 65536
_ROLES = "/latest/meta-data/iam/security-credentials/"
# There for what has been in a group, with `Detached` for what is not any more:
# https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html
_GROUP = "/latest/meta-data/autoscaling/target-lifecycle-state"
# A role's credentials are renewed by EC2 at least five minutes before they end.
_RENEW_BEFORE_SECONDS = 300


@dataclass(frozen=True)
class RoleCredentials:
    """Short-lived AWS credentials; `expires` is in seconds since the epoch."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    token: str = field(repr=False)
    expires: float = 0.0

    def is_fresh(self, now: float) -> bool:
        """Say whether they can be used for a while yet."""
        return now < self.expires - _RENEW_BEFORE_SECONDS


class Imds:
    """Asks the metadata service; every question is bounded by `timeout_seconds`.

    Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
    """

    def __init__(self, endpoint: str | None = None, *, timeout_seconds: float = 2.0) -> None:
        self.endpoint = (endpoint or DEFAULT_ENDPOINT).rstrip("/")
        self._timeout = timeout_seconds
        self._token: str | None = None
        # No proxy: the answer holds credentials and the address is link-local.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def region(self) -> str:
        """Return the region this instance runs in. Errors: Trouble `region-missing`."""
        try:
            return self._get("/latest/meta-data/placement/region").strip()
        except Trouble as trouble:
            raise Trouble(
                "region-missing",
                f"No region: neither in `agent.json` nor in `boot.json`, and {trouble.message}",
                hint="Name the region at launch: `region` in the launch user data",
            ) from None

    def instance_id(self) -> str:
        """Return the instance's id, such as `i-0123…`."""
        return self._get("/latest/meta-data/instance-id").strip()

    def is_in_auto_scaling_group(self) -> bool:
        """Say whether the instance is, or was, in an Auto Scaling group. Errors: Trouble, as elsewhere."""
        try:
            self._get(_GROUP)
        except _Missing:
            return False
        return True

    def role_credentials(self) -> RoleCredentials:
        """Return the credentials of the instance's role.

        Errors: Trouble `role-missing` while there is none yet (they can be minutes late:
        https://github.com/aws/amazon-ssm-agent/issues/544), `imds-unreachable`, `imds-broken`.
        """
        try:
            role = self._get(_ROLES).strip().splitlines()[:1]
            document = json.loads(self._get(_ROLES + role[0])) if role else {}
        except (ValueError, RecursionError):
            raise Trouble(
                "imds-broken", f"The metadata service at {self.endpoint} did not answer in JSON"
            ) from None
        if not isinstance(document, dict) or not document.get("AccessKeyId"):
            raise _no_role(self.endpoint)
        return _read_credentials(document)

    def _get(self, path: str) -> str:
        """GET with the token; a token that is refused (another host's, after a move) is renewed once."""
        for attempt in (1, 2):
            if self._token is None:
                self._token = self._ask(
                    "PUT",
                    "/latest/api/token",
                    {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)},
                )
                logs.hide(self._token, is_passing=True)
            try:
                return self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})
            except _Refused as refused:
                self._token = None
                if attempt == 2:
                    raise Trouble("imds-broken", refused.message, hint=refused.hint) from None
        raise AssertionError("both attempts return or raise")

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        url = self.endpoint + path  # settings.py lets only http and https through
        request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                body: bytes = answer.read(_LARGEST_ANSWER)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._http_trouble(error.code, path) from None
        except (OSError, http.client.HTTPException) as error:
            raise Trouble(
                "imds-unreachable",
                f"The metadata service at {self.endpoint} cannot be reached ({_reason(error)})",
                hint="On EC2: is the metadata endpoint enabled for this instance, with IMDSv2?",
            ) from None
        return body.decode("utf-8", "replace")

    def _http_trouble(self, code: int, path: str) -> Trouble:
        if code == 401:
            return _Refused("imds-broken", f"The metadata service at {self.endpoint} refuses its own token")
        if code == 404 and path.startswith(_ROLES):
            return _no_role(self.endpoint)
        kind = _Missing if code == 404 else Trouble
        return kind("imds-broken", f"The metadata service at {self.endpoint} answered {code} for `{path}`")


class _Missing(Trouble):
    """HTTP 404: there is no such value for this instance."""


class _Refused(Trouble):
    """HTTP 401: the token has ended or is another host's."""


def _no_role(endpoint: str) -> Trouble:
    return Trouble(
        "role-missing",
        f"The metadata service at {endpoint} has no role credentials for this instance (yet)",
        hint="Attach an instance profile whose role may call secretsmanager:GetSecretValue",
    )


def _read_credentials(document: dict[str, str]) -> RoleCredentials:
    credentials = RoleCredentials(
        access_key_id=str(document["AccessKeyId"]),
        secret_access_key=str(document.get("SecretAccessKey", "")),
        token=str(document.get("Token", "")),
        expires=_epoch(str(document.get("Expiration", ""))),
    )
    logs.hide(credentials.secret_access_key, is_passing=True)
    logs.hide(credentials.token, is_passing=True)
    return credentials


def _epoch(text: str) -> float:
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        # Without a readable end they are asked for again soon.
        return time.time() + _RENEW_BEFORE_SECONDS + 60
    return moment.replace(tzinfo=timezone.utc).timestamp()


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    return str(cause) or type(cause).__name__

"""Keep one upstream's credential: fetch it, prove it, notice a new version, never give up a good one."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable

from relay_agent import credential as credentials
from relay_agent import loops, oauth
from relay_agent.backoff import Backoff
from relay_agent.credential import Credential
from relay_agent.secret import SecretVersion
from relay_agent.settings import Upstream
from relay_agent.trouble import Trouble

Fetch = Callable[[Upstream], SecretVersion]
Prove = Callable[[Upstream, Credential], None]
Exchange = Callable[[oauth.TokenRequest], oauth.AccessToken]
# What a boot brings about by itself: no network yet, no role yet.
_LOCAL = {"imds-unreachable", "role-missing", "region-missing", "endpoint-unreachable"}
_LOCAL |= {"upstream-dns", "upstream-unreachable", "library-slow", "token-unreachable"}
# What is wrong with a version itself, not with the way to it.
_BAD_VERSION = {"auth-refused", "secret-shape", "token-refused"}
_TOKEN_SHARE = 0.8
# After a 535 in the mail log the secret is asked for at once, but not more often than this.
_EARLY_SECONDS = 10.0


@dataclass(frozen=True)
class Proven:
    """A credential that the provider has accepted; times are in seconds since the epoch.

    `renew_at` is on the monotonic clock: when an access token has to be replaced.
    """

    credential: Credential = field(repr=False)
    version_id: str
    created: float
    proven_at: float
    renew_at: float | None = None


class Keeper:
    """The life of one upstream's credential. `check` does one round when it is due."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        fetch: Fetch,
        prove: Prove,
        poll_seconds: float,
        exchange: Exchange = oauth.exchange,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.upstream = upstream
        self._fetch, self._prove, self._exchange = fetch, prove, exchange
        self._poll_seconds = poll_seconds
        self._monotonic, self._clock = monotonic, clock
        # Network, role and metadata are often seconds late at boot: each second counts until ready.
        self._soon = Backoff(base_seconds=1, cap_seconds=5)
        # A service that is asked too often, or is ill, gets some rest.
        self._later = Backoff(base_seconds=1, cap_seconds=30)
        # What needs a person; a refused login tried all the time makes the provider lock the account.
        self._late = Backoff(base_seconds=4, cap_seconds=60)
        self._suspect_since: float | None = None
        self._checked_at: float | None = None
        self.due = 0.0
        self.current: Proven | None = None
        # The newest credential that could be read but not proven because the provider does not answer.
        self.untried: Credential | None = None
        self.trouble: Trouble | None = None
        self.refused_version: str | None = None
        self.is_refused = False
        self.counts = {"rotations": 0, "refused": 0, "failed_checks": 0}

    @property
    def is_proven(self) -> bool:
        """Say whether the provider accepted the credential in use, and has not refused it since."""
        return self.current is not None and not self.is_refused

    def suspect(self) -> None:
        """Take a hint that the provider refuses our login: look for a new version soon."""
        now = self._monotonic()
        if self._suspect_since is None and not self.is_refused:
            self._suspect_since = now
            checked = self._checked_at if self._checked_at is not None else now - _EARLY_SECONDS
            self.due = min(self.due, max(now, checked + _EARLY_SECONDS))

    def retry_now(self) -> None:
        """Check at the next opportunity: the settings were mended."""
        self.due = 0.0

    def check(self) -> bool:
        """Do one round if it is due; True when there is a newly proven credential to put in use."""
        now = self._monotonic()
        if now < self.due:
            return False
        self._checked_at = now
        suspected, self._suspect_since = self._suspect_since is not None, None
        version: SecretVersion | None = None
        try:
            version = self._fetch(self.upstream)
            changed = False
            if suspected or self.is_refused or self._is_new(version, now):
                changed = self._take(version)
        except Trouble as trouble:
            self._failed(trouble, version)
            return False
        except Exception as error:  # noqa: BLE001 - no error about one upstream may stop the others
            self._failed(loops.failed("credential", error), version)
            return False
        self._succeeded()
        return changed

    def _is_new(self, version: SecretVersion, now: float) -> bool:
        current = self.current
        if current is None or version.version_id != current.version_id:
            return True
        return current.renew_at is not None and now >= current.renew_at

    def _with_token(self, read: Credential) -> tuple[Credential, float | None]:
        """Put an access token in the password's place, where the secret holds a grant for one."""
        if read.token is None:
            return read, None
        access = self._exchange(read.token)
        # Well before its end: sessions that are open then go on, new ones need a good token.
        renew_at = self._monotonic() + access.seconds * _TOKEN_SHARE
        return replace(read, password=access.token, token=None), renew_at

    def _take(self, version: SecretVersion) -> bool:
        """Read and prove a version; the one in use serves meanwhile and stays when this one is no good."""
        upstream = self.upstream
        secret = upstream.secret or ""
        read = credentials.read(version.text, shapes=upstream.shapes, secret=secret, region=upstream.region)
        read, renew_at = self._with_token(read)
        self.untried = read
        self._prove(upstream, read)
        previous = self.current
        self.untried = None
        self.current = Proven(read, version.version_id, version.created, self._clock(), renew_at)
        self.counts["rotations"] += previous is not None and previous.version_id != version.version_id
        return previous is None or self.is_refused or previous.credential != read

    def _succeeded(self) -> None:
        self.trouble, self.refused_version, self.is_refused = None, None, False
        for backoff in (self._soon, self._later, self._late):
            backoff.reset()
        # Spread over the fleet, or all relays ask in the same second for ever.
        self.due = self._monotonic() + self._poll_seconds * random.uniform(0.9, 1.1)  # noqa: S311
        if self.current is not None and self.current.renew_at is not None:
            self.due = min(self.due, self.current.renew_at)

    def _failed(self, trouble: Trouble, version: SecretVersion | None) -> None:
        self.trouble = trouble
        self.counts["failed_checks"] += 1
        if trouble.code in _BAD_VERSION and version is not None:
            self.untried = None
            if self.refused_version != version.version_id:
                self.counts["refused"] += 1
            self.refused_version = version.version_id
            in_use = self.current is not None and self.current.version_id == version.version_id
            if in_use and trouble.code in ("auth-refused", "token-refused"):
                self.is_refused = True
        self.due = self._monotonic() + self._backoff_for(trouble).next_seconds()

    def _backoff_for(self, trouble: Trouble) -> Backoff:
        if trouble.lasting:
            return self._late
        return self._soon if trouble.code in _LOCAL else self._later

    def as_json(self) -> dict[str, Any]:
        """Return what `status.json` shows of this upstream; no value of the credential."""
        current = self.current
        return {
            "name": self.upstream.name,
            "host": self.upstream.host,
            "port": self.upstream.port,
            "secret": self.upstream.secret,
            "state": self._state(),
            "version_id": current.version_id if current else None,
            "version_created": current.created if current else None,
            "proven_at": current.proven_at if current else None,
            "shape": current.credential.shape if current else None,
            "note": current.credential.note if current else None,
            "refused_version": self.refused_version,
            "reason": self.trouble.as_json() if self.trouble else None,
            "counts": dict(self.counts),
        }

    def _state(self) -> str:
        if self.is_proven:
            return "proven"
        return "refused" if self.is_refused or self.refused_version else "waiting"

"""Keep one upstream's credential: fetch it, prove it, notice a new version, never give up a good one."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Protocol

from relay_agent import credential as credentials
from relay_agent import loops, oauth
from relay_agent.backoff import Backoff
from relay_agent.credential import Credential
from relay_agent.secret import CURRENT, PREVIOUS, SecretVersion
from relay_agent.settings import Upstream
from relay_agent.trouble import Trouble


class Fetch(Protocol):
    """Fetches the secret of an upstream: the current version, or that of another stage."""

    def __call__(self, upstream: Upstream, stage: str = CURRENT, /) -> SecretVersion:
        """Return one version. Errors: Trouble."""


Prove = Callable[[Upstream, Credential], None]
Exchange = Callable[[oauth.TokenRequest], oauth.AccessToken]
# What a boot brings about by itself: no network yet, no role yet.
_LOCAL = {"imds-unreachable", "role-missing", "region-missing", "endpoint-unreachable"}
_LOCAL |= {"upstream-dns", "upstream-unreachable", "library-slow", "token-unreachable"}
# What is wrong with a version itself, not with the way to it.
_REFUSED = {"auth-refused", "token-refused"}
_BAD_VERSION = _REFUSED | {"secret-shape"}
_TOKEN_SHARE = 0.8
# After a 535 in the mail log the secret is asked for at once, but not more often than this.
_EARLY_SECONDS = 10.0


@dataclass(frozen=True)
class Proven:
    """A credential that the provider has accepted, and the version of the secret that it comes from.

    `proven_at` is in seconds since the epoch; `renew_at`, on the monotonic clock, when an access token is
    to be replaced.
    """

    credential: Credential = field(repr=False)
    version: SecretVersion
    proven_at: float
    renew_at: float | None = None

    @property
    def version_id(self) -> str:
        """The id of the version."""
        return self.version.version_id


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
        is_doubtful, self._suspect_since = self._is_doubtful(now), None
        version: SecretVersion | None = None
        try:
            version = self._fetch(self.upstream)
            changed = False
            if is_doubtful or not self._is_in_use(version):
                changed = self._take(version)
        except Trouble as trouble:
            self._failed(trouble, version)
        except Exception as error:  # noqa: BLE001 - no error about one upstream may stop the others
            self._failed(loops.failed("credential", error), version)
        else:
            self._succeeded()
            return changed
        if self.current is None:
            return self._take_previous()
        return is_doubtful and self._prove_again(self.current, version)

    def _is_doubtful(self, now: float) -> bool:
        """Say whether the credential in use may be one that the provider does not take (any more)."""
        renew_at = self.current.renew_at if self.current is not None else None
        has_ended = renew_at is not None and now >= renew_at
        return self._suspect_since is not None or self.is_refused or has_ended

    def _is_in_use(self, version: SecretVersion | None) -> bool:
        current = self.current
        return version is not None and current is not None and version.version_id == current.version_id

    def _take_previous(self) -> bool:
        """Without any credential, as after a reboot, fall back on the version before one that is no good.

        Not when the current one could not be tried: it may be good, and the one before revoked.
        """
        trouble = self.trouble
        if trouble is None or trouble.code not in _BAD_VERSION:
            return False
        try:
            return self._take(self._fetch(self.upstream, PREVIOUS))
        except Trouble as found:
            if found.code in _BAD_VERSION:
                message = f"{trouble.message}; the version before it: {found.message}"
                self.trouble = Trouble(trouble.code, message, hint=trouble.hint, lasting=True)
        except Exception as error:  # noqa: BLE001 - as in `check`
            loops.failed("credential", error)
        self.untried = None
        return False

    def _prove_again(self, current: Proven, version: SecretVersion | None) -> bool:
        """Prove the credential in use when it is in doubt and there is no newer one that works."""
        trouble = self.trouble
        if not self._is_in_use(version):
            try:
                changed = self._take(current.version)
            except Trouble as found:
                trouble = found
            except Exception as error:  # noqa: BLE001 - as in `check`
                trouble = loops.failed("credential", error)
            else:
                self.is_refused = False
                if self.refused_version == current.version_id:
                    self.refused_version = None
                return changed
            if trouble.code in _REFUSED:
                self._in_use_refused(trouble)
        if not self.is_refused:
            # Nobody could say: the doubt remains.
            self._suspect_since = self._monotonic()
        return False

    def _in_use_refused(self, trouble: Trouble) -> None:
        newest = self.trouble
        if newest is not None:
            message = f"The version in use: {trouble.message}; the newest one: {newest.message}"
            if not newest.lasting:
                # Secrets Manager may be asked soon, but a refused password is not tried as often.
                self.due = max(self.due, self._monotonic() + self._late.next_seconds())
            trouble = Trouble(trouble.code, message, hint=newest.hint or trouble.hint, lasting=True)
        self.is_refused, self.trouble = True, trouble

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
        self.current = Proven(read, version, self._clock(), renew_at)
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
        if self._suspect_since is not None and self._checked_at is not None:
            # A hint that came while this round went on, about a login that may be later than its proof.
            self.due = min(self.due, self._checked_at + _EARLY_SECONDS)

    def _failed(self, trouble: Trouble, version: SecretVersion | None) -> None:
        self.trouble = trouble
        self.counts["failed_checks"] += 1
        if trouble.code in _BAD_VERSION:
            self.untried = None
            # One that is no text has no more of a name than its stage.
            refused = version.version_id if version is not None else CURRENT
            self.counts["refused"] += self.refused_version != refused
            self.refused_version = refused
            if self._is_in_use(version) and trouble.code in _REFUSED:
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
            "version_created": current.version.created if current else None,
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

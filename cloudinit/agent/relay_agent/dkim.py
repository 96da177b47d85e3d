"""DKIM: private keys from their secrets to tmpfs, the signer started, and proof that it signs.

    agent.json  "dkim": {"unit": "relay-dkim.service", "socket": …, "must_sign": true,
                 "keys": [{"domain": …, "selector": …, "secret": …, "file": …}]}
    secret      {"private_key": PEM}

Port 25 stays closed until every domain's mail is signed, unless `must_sign` is false.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Sequence

from relay_agent import logs, milter, programs
from relay_agent.backoff import Backoff
from relay_agent.logs import Log
from relay_agent.maps import write_whole
from relay_agent.places import Places
from relay_agent.secret import SecretVersion, read_object
from relay_agent.trouble import Trouble, wrong_plan, wrong_secret

_UNIT = re.compile(r"[a-z-]+\.service")
_BITS = re.compile(r"\((\d+) bit")
# RFC 8301, 3.2: verifiers do not take fewer.
_LEAST_BITS = 1024
_PROVE_SECONDS = 15.0
# A signer that is started again by systemd is back within this; until then clients get 451 from Postfix.
_GRACE_SECONDS = 10.0
_AGAIN_SECONDS = 2.0
# Codes of Secrets Manager, or the way to it, not answering at all.
_UNREACHABLE = {"endpoint-unreachable", "endpoint-slow", "endpoint-untrusted", "imds-unreachable"}
_UNREACHABLE |= {"library-slow", "library-missing"}


@dataclass
class Key:
    """One domain's key as it is in use; `record` is what must stand in DNS."""

    domain: str
    selector: str
    secret: str
    file: Path
    version_id: str | None = None
    record: str = field(default="", repr=False)


@dataclass(frozen=True)
class Plan:
    """What agent.json says about signing."""

    unit: str
    socket: Path
    must_sign: bool
    keys: Sequence[Key]


def read_plan(places: Places) -> Plan | None:
    """Read the plan of agent.json; None when the image does not sign. Errors: Trouble `config-invalid`."""
    values = places.baked("dkim")
    if values is None:
        return None
    try:
        keys = [
            Key(str(key["domain"]), str(key["selector"]), str(key["secret"]), places.below(key["file"]))
            for key in values["keys"]
        ]
        plan = Plan(str(values["unit"]), places.below(values["socket"]), values["must_sign"] is True, keys)
    except (KeyError, TypeError) as error:
        raise wrong_plan("dkim", f"{type(error).__name__} {error}") from None
    if not _UNIT.fullmatch(plan.unit) or not keys:
        raise wrong_plan("dkim", "`unit` or `keys`")
    return plan


class Signer:
    """Keeps keys and signer; `check` does one round and says what is wrong."""

    def __init__(
        self,
        plan: Plan,
        log: Log,
        *,
        fetch: Callable[[str], SecretVersion],
        poll_seconds: float,
        owner: str = "opendkim",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._log = plan, log
        self._fetch, self._poll_seconds, self._owner = fetch, poll_seconds, owner
        self._monotonic = monotonic
        self._backoff = Backoff(base_seconds=1, cap_seconds=30)
        self._due = self._prove_due = 0.0
        self._is_stale = True
        self._failing_since: float | None = None
        self._key_trouble: Trouble | None = None
        self.trouble: Trouble | None = None
        self.is_signing = False

    @property
    def blocks(self) -> bool:
        """Say that no mail may be accepted now: it could not be signed, and that is no passing moment."""
        if not self._plan.must_sign or self.is_signing:
            return False
        since = self._failing_since
        return since is None or self._monotonic() - since > _GRACE_SECONDS

    def check(self) -> Trouble | None:
        """Follow the secrets when it is time, see that the signer signs, and return what is wrong."""
        if self._monotonic() >= self._due:
            self._follow()
        if self._monotonic() >= self._prove_due and self._has_keys():
            self._prove()
        trouble = self._key_trouble or self.trouble
        if trouble is None and not self.is_signing:
            trouble = Trouble("dkim-down", "The DKIM signer has not been started yet")
        return trouble

    def _has_keys(self) -> bool:
        return all(key.file.exists() for key in self._plan.keys)

    def _follow(self) -> None:
        """Take new versions; one that is no good leaves the key in use where it is."""
        trouble: Trouble | None = None
        for key in self._plan.keys:
            try:
                version = self._fetch(key.secret)
                if version.version_id != key.version_id or not key.file.exists():
                    self._take(key, version)
            except Trouble as found:
                trouble = trouble or found
                if found.code in _UNREACHABLE:
                    # It would be no better for the others, and each may take as long to find out.
                    break
            except (OSError, LookupError) as error:
                trouble = trouble or Trouble("file-error", f"`{key.file}` cannot be written: {error}")
        self._say(trouble, self._key_trouble)
        self._key_trouble = trouble
        if trouble is None:
            self._backoff.reset()
        wait = self._poll_seconds if trouble is None else self._backoff.next_seconds()
        self._due = self._monotonic() + wait

    def _take(self, key: Key, version: SecretVersion) -> None:
        pem = _private_key(version.text, key.secret)
        key.record = _record(pem, key)
        write_key(key.file, pem, self._owner)
        key.version_id = version.version_id
        self._is_stale, self._prove_due = True, 0.0
        self._log.info("DKIM key in use", domain=key.domain, version_id=version.version_id)

    def _prove(self) -> None:
        before = self.trouble
        try:
            if self._is_stale:
                self._load()
            for key in self._plan.keys:
                _prove(self._plan.socket, key)
        except Trouble as trouble:
            self._failed(trouble)
        else:
            if not self.is_signing:
                self._log.info("mail is signed", domains=[key.domain for key in self._plan.keys])
            self.is_signing, self.trouble, self._failing_since = True, None, None
            self._prove_due = self._monotonic() + _PROVE_SECONDS
        self._say(self.trouble, before)

    def _failed(self, trouble: Trouble) -> None:
        if self.is_signing:
            self._failing_since = self._monotonic()
        self.is_signing, self.trouble = False, trouble
        # Started again by systemd when it crashed; by this when it was stopped, or never started.
        self._is_stale = True
        self._prove_due = self._monotonic() + _AGAIN_SECONDS

    def _load(self) -> None:
        """Start the signer, or let it read its keys again; one that has been silent for long is replaced."""
        since = self._failing_since
        is_stuck = since is not None and self._monotonic() - since > _GRACE_SECONDS
        verb = "restart" if is_stuck else "reload-or-restart"
        ended = programs.run(["systemctl", "--no-block", verb, self._plan.unit])
        if ended.returncode != 0:
            raise Trouble("dkim-down", f"`{self._plan.unit}` cannot be started: {ended.last_line}")
        self._is_stale = False

    def _say(self, trouble: Trouble | None, before: Trouble | None) -> None:
        if trouble is not None and (before is None or before.message != trouble.message):
            self._log.warning("dkim", **trouble.as_json())

    def as_json(self) -> dict[str, Any]:
        """Return what `status.json` shows; public keys only."""
        trouble = self._key_trouble or self.trouble
        return {
            "signing": self.is_signing,
            "must_sign": self._plan.must_sign,
            "keys": [
                {
                    "domain": key.domain,
                    "name": f"{key.selector}._domainkey.{key.domain}",
                    "record": key.record,
                    "secret": key.secret,
                    "version_id": key.version_id,
                }
                for key in self._plan.keys
            ],
            "reason": trouble.as_json() if trouble else None,
        }


def write_key(path: Path, pem: str, owner: str) -> None:
    """Put a key in place, readable to the signer's user alone from its first moment there."""
    new = path.with_name(f".{path.name}.for-signer")
    write_whole(new, pem, mode=0o600)
    shutil.chown(new, owner, owner)
    new.replace(path)


def _prove(path: Path, key: Key) -> None:
    tags = milter.signature(path, key.domain)
    if (tags.get("d"), tags.get("s")) != (key.domain, key.selector):
        raise Trouble(
            "dkim-unsigned",
            f"Mail of {key.domain} is signed as {tags.get('s')}._domainkey.{tags.get('d')}",
            lasting=True,
        )


def _private_key(text: str, secret: str) -> str:
    logs.hide(text)
    key = (read_object(text) or {}).get("private_key")
    if not isinstance(key, str) or "PRIVATE KEY-----" not in key:
        raise wrong_secret(secret, '`private_key`: an RSA key in PEM form, in {"private_key": "…"}')
    logs.hide(key)
    return key.strip() + "\n"


def _record(pem: str, key: Key) -> str:
    """Check the key and return its DNS record (RFC 6376, 3.6.1); the key goes through standard input only."""
    shown = _openssl(pem, key, "-text_pub", "-noout")
    bits = _BITS.search(shown)
    if "Modulus" not in shown or bits is None:
        raise wrong_secret(key.secret, "an RSA key; OpenDKIM signs with RSA")
    if int(bits.group(1)) < _LEAST_BITS:
        raise wrong_secret(key.secret, f"an RSA key of {_LEAST_BITS} bits or more, 2048 for preference")
    public = _openssl(pem, key, "-pubout")
    body = "".join(line for line in public.splitlines() if "-----" not in line)
    return f"v=DKIM1; k=rsa; p={body}"


def _openssl(pem: str, key: Key, *options: str) -> str:
    # An empty passphrase, so that it does not ask for one.
    ended = programs.run(["openssl", "pkey", "-passin", "pass:", *options], stdin=pem)
    if ended.returncode != 0:
        raise wrong_secret(key.secret, "a private key that OpenSSL can read, without a passphrase")
    return ended.stdout

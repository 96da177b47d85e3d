"""The port for clients that log in: it opens when its users and its certificate, from a secret, are there.

    agent.json  "submission": {"service": "submission", "master_cf": "submission inet n …", "secret": …,
                 "certificate": "secret" or "self_signed", "certificate_file": …, "users_file": …,
                 "realm": …, "port": 587}
    secret      {"users": {"app": "its password"}, "certificate": PEM, "private_key": PEM}

Trouble here is reported and tried again; it never closes port 25.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping

from relay_agent import logs, programs
from relay_agent.backoff import Backoff
from relay_agent.logs import Log
from relay_agent.maps import write_whole
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.secret import SecretVersion, read_object
from relay_agent.trouble import Trouble, wrong_plan, wrong_secret

_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_SERVICES = ("submission", "smtps")
_VALID_DAYS = "825"


@dataclass(frozen=True)
class Plan:
    """What agent.json says about the port."""

    service: str
    master_cf: str
    secret: str
    certificate: str
    certificate_file: Path
    users_file: Path
    realm: str
    port: int


def read_plan(places: Places) -> Plan | None:
    """Read the plan of agent.json; None when the image has no such port. Errors: Trouble `config-invalid`."""
    values = places.baked("submission")
    if values is None:
        return None
    try:
        plan = Plan(
            service=str(values["service"]),
            master_cf=str(values["master_cf"]),
            secret=str(values["secret"]),
            certificate=str(values["certificate"]),
            certificate_file=places.below(values["certificate_file"]),
            users_file=places.below(values["users_file"]),
            realm=str(values["realm"]),
            port=int(values["port"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise wrong_plan("submission", f"{type(error).__name__} {error}") from None
    if plan.service not in _SERVICES or "\n" in plan.master_cf:
        raise wrong_plan("submission", "`service` or `master_cf`")
    return plan


class Submission:
    """Keeps users, certificate and the entry in master.cf; `check` does one round."""

    def __init__(
        self,
        plan: Plan,
        postfix: Postfix,
        log: Log,
        *,
        fetch: Callable[[str], SecretVersion],
        hostname: str,
        poll_seconds: float,
        group: str = "postfix",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan, self._postfix, self._log = plan, postfix, log
        self._fetch, self._hostname, self._group = fetch, hostname, group
        self._poll_seconds, self._monotonic = poll_seconds, monotonic
        self._backoff = Backoff(base_seconds=2, cap_seconds=60)
        self._due = 0.0
        self._is_open: bool | None = None
        self.version_id: str | None = None
        self.users = 0
        self.trouble: Trouble | None = None

    def check(self, *, may_open: bool) -> None:
        """Follow the secret when it is time; open or close the port as `may_open` and the files allow."""
        if self._monotonic() >= self._due:
            self._follow()
        is_wanted = may_open and self._plan.users_file.exists() and self._plan.certificate_file.exists()
        if is_wanted != self._is_open:
            try:
                self._set_open(is_wanted)
            except Trouble as trouble:
                self.trouble = trouble

    def _follow(self) -> None:
        try:
            version = self._fetch(self._plan.secret)
            if version.version_id != self.version_id:
                self._take(version)
        except Trouble as trouble:
            if self.trouble is None or self.trouble.message != trouble.message:
                self._log.warning("submission", **trouble.as_json())
            self.trouble = trouble
            self._due = self._monotonic() + self._backoff.next_seconds()
            return
        self.trouble = None
        self._backoff.reset()
        self._due = self._monotonic() + self._poll_seconds

    def _take(self, version: SecretVersion) -> None:
        document = _document(version.text, self._plan.secret)
        users = _users(document, self._plan.secret)
        pem = self._certificate(document)
        self._write_users(users)
        write_whole(self._plan.certificate_file, pem, mode=0o600)
        self.version_id, self.users = version.version_id, len(users)
        self._log.info("submission users in use", version_id=version.version_id, users=len(users))
        if self._is_open:
            self._postfix.reload()

    def _certificate(self, document: Mapping[str, Any]) -> str:
        """Return key and certificates in the order of smtpd_tls_chain_files."""
        if self._plan.certificate == "self_signed":
            if self._plan.certificate_file.exists():
                return self._plan.certificate_file.read_text(encoding="utf-8")
            return _self_signed(self._hostname)
        key, chain = document.get("private_key"), document.get("certificate")
        if not _is_pem(key, "PRIVATE KEY") or not _is_pem(chain, "CERTIFICATE"):
            raise wrong_secret(self._plan.secret, "`certificate` and `private_key` in PEM form")
        logs.hide(str(key))
        return f"{str(key).strip()}\n{str(chain).strip()}\n"

    def _write_users(self, users: Mapping[str, str]) -> None:
        """Make the database anew beside the old one, then put it in place by rename."""
        new = self._plan.users_file.with_name(".sasldb2.new")
        new.unlink(missing_ok=True)
        try:
            for name, password in sorted(users.items()):
                command = ["saslpasswd2", "-p", "-c", "-f", str(new), "-u", self._plan.realm, name]
                ended = programs.run(command, stdin=password)
                if ended.returncode != 0:
                    raise Trouble("submission-users", f"`saslpasswd2` failed for `{name}`: {ended.last_line}")
            new.chmod(0o640)
            shutil.chown(new, group=self._group)
            new.replace(self._plan.users_file)
        except LookupError:
            raise Trouble("submission-users", f"There is no group `{self._group}`") from None
        finally:
            new.unlink(missing_ok=True)

    def _set_open(self, is_wanted: bool) -> None:
        service = self._plan.service
        if is_wanted:
            self._postfix.open_service(service, self._plan.master_cf)
            self._postfix.reload()
        else:
            self._postfix.close_service(service)
        self._is_open = is_wanted
        self._log.info("submission", port=self._plan.port, open=is_wanted)

    def as_json(self) -> dict[str, Any]:
        """Return what `status.json` shows."""
        return {
            "port": self._plan.port,
            "open": bool(self._is_open),
            "secret": self._plan.secret,
            "version_id": self.version_id,
            "users": self.users,
            "reason": self.trouble.as_json() if self.trouble else None,
        }


def _document(text: str, secret: str) -> dict[str, Any]:
    logs.hide(text)
    document = read_object(text)
    if document is None:
        raise wrong_secret(secret, "a JSON object")
    return document


def _users(document: Mapping[str, Any], secret: str) -> dict[str, str]:
    users = document.get("users")
    if not isinstance(users, dict) or not users:
        raise wrong_secret(secret, '`users`: an object of names and passwords, such as {"app": "…"}')
    for name, password in users.items():
        if not _USER.fullmatch(name):
            raise wrong_secret(secret, "user names of letters, digits and `._@+-`")
        if not isinstance(password, str) or len(password) < 8 or not password.isprintable():
            raise wrong_secret(secret, f"a password of 8 printable characters or more for `{name}`")
        logs.hide_login(name, password)
    return dict(users)


def _is_pem(value: object, kind: str) -> bool:
    return isinstance(value, str) and f"{kind}-----" in value


def _self_signed(hostname: str) -> str:
    """Make a key and a certificate for it; the key is never in a file but the one on tmpfs."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", _VALID_DAYS, "-subj", f"/CN={hostname}", "-addext", f"subjectAltName=DNS:{hostname}"]
    ended = programs.run([*command, "-keyout", "-", "-out", "-"])
    if ended.returncode != 0:
        raise Trouble("submission-certificate", f"`openssl req` failed: {ended.last_line}")
    logs.hide(ended.stdout)
    return ended.stdout

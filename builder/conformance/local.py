"""A relay that is a private Postfix on this machine, or in the tree of another release."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trustme

from builder import process
from builder.conformance.relay import Relay
from builder.conformance.sandbox import Sandbox
from builder.conformance.signer import Signer

_EDITS = "root/usr/lib/relay/master.cf.edits"
_POSTFIX = "root/etc/postfix/"
_PROGRAMS = "root/usr/lib/relay/bin/"
_DKIM = "root/etc/relay/dkim/"
_SASL = "root/usr/lib/relay/sasl/"
_AGENT = "root/etc/relay/agent.json"
_LOG = "/var/log/mail.log"
# What cannot be mounted over where it is, since it does not exist on a machine that is no relay.
_MOVED = {
    "/usr/lib/relay/": "/run/relay-lib/",
    "/etc/relay/dkim": "/run/relay-lib/dkim",
    "/var/spool/relay-dsn": "/run/relay-dsn",
}
_COOL_SECONDS = 10
# A user of the submission port that exists in this sandbox only.
TEST_USER, TEST_PASSWORD = "app", "app-password"


class LocalRelay(Relay):
    """Postfix with rendered files (`builder.render.render`), for the length of a `with` block.

    `ports` maps each upstream's host name to its port on 127.0.0.1, `ca_pem` is what its certificate is
    checked against. `root` is the tree of another release with Postfix installed. Needs root.
    """

    abilities = frozenset(
        {
            "xclient",
            "stop",
            "disk",
            "settings",
            "map",
            "submission",
            "reports",
            "null-refused",
            "starttls",
            "signer",
        }
    )
    reports = "/run/relay-dsn"

    def __init__(
        self,
        rendered: Mapping[str, str],
        folder: Path,
        *,
        ports: Mapping[str, int],
        ca_pem: str,
        root: Path = Path("/"),
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.name = f"Postfix in {root}"
        self.smtp_address = ("127.0.0.1", _free_port())
        self.submission_address = ("127.0.0.1", _free_port())
        self._rendered = rendered
        self._ports = ports
        self._ca_pem = ca_pem
        self._parameters = dict(parameters or {})
        self._sandbox = Sandbox(folder, root=root)
        self.signer = Signer(self.run, rendered[_AGENT]) if f"{_DKIM}opendkim.conf" in rendered else None

    def __enter__(self) -> LocalRelay:
        if f"{_SASL}build.sh" in self._rendered:
            self._compile_mechanism()
        self._sandbox.start(dict.fromkeys(self._ports, "127.0.0.1"))
        try:
            self._configure()
            if self.signer is not None:
                self.signer.prepare()
                self.signer.start()
            self.start_postfix()
        except BaseException:
            self._sandbox.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._sandbox.stop()

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs a command inside the sandbox."""
        return self._sandbox.command(argv)

    def run(self, argv: Sequence[str], *, check: bool = True, timeout_seconds: float = 60) -> str:
        """Run a command inside the sandbox."""
        return self._sandbox.run(argv, check=check, timeout_seconds=timeout_seconds)

    def write_file(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Put a file in place by rename; only under `/run/relay` and `/etc/postfix`."""
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f".{place.name}.new")
        new.touch(mode=mode)
        new.chmod(mode)
        new.write_text(text)
        # Postfix waits up to 2 s for a texthash file that has just changed, in case it is half written
        # (dict_thash.c); this one is put in place whole.
        os.utime(new, (time.time() - _COOL_SECONDS,) * 2)
        new.replace(place)

    def remove_file(self, path: str) -> None:
        """Remove a file under `/run/relay` or `/etc/postfix`."""
        self._place(path).unlink(missing_ok=True)

    def start_postfix(self) -> None:
        """Start the master; it goes on in the background."""
        self.run(["sh", "-c", "postfix start >/dev/null 2>&1"])

    def log(self) -> str:
        """Return the mail log so far."""
        return self.run(["cat", _LOG], check=False)

    def check(self, rendered: Mapping[str, str]) -> str:
        """Put other rendered files in place, let `postfix check` read them, and return `configuration`."""
        self._rendered = rendered
        self._configure()
        return self.configuration()

    def configuration(self) -> str:
        """Return `postconf -n`, with Postfix's own warnings about it."""
        return self.run(["sh", "-c", "postconf -n 2>&1"])

    def _place(self, path: str) -> Path:
        for real, private in (
            ("/run/relay/", self._sandbox.run_relay),
            ("/etc/postfix/", self._sandbox.etc_postfix),
            ("/run/relay-lib/", self._sandbox.relay_lib),
        ):
            if path.startswith(real):
                return private / path.removeprefix(real)
        raise ValueError(f"{path} is not a file of the sandbox")

    def _configure(self) -> None:
        dist = self._sandbox.root / "usr/share/postfix/master.cf.dist"
        self.write_file("/etc/postfix/master.cf", dist.read_text())
        for path, text in self._rendered.items():
            if path.startswith(_POSTFIX):
                self.write_file(f"/etc/postfix/{path.removeprefix(_POSTFIX)}", self._here(text))
            elif path.startswith(_PROGRAMS):
                self.write_file(f"/run/relay-lib/bin/{path.removeprefix(_PROGRAMS)}", text, mode=0o755)
            elif path.startswith(_DKIM):
                self.write_file(f"/run/relay-lib/dkim/{path.removeprefix(_DKIM)}", self._here(text))
        self.write_file("/run/relay/ca.pem", self._ca_pem)
        edits = self._here(self._rendered[_EDITS]).splitlines()
        for line in edits:
            if line and not line.startswith("#"):
                self.run(["postconf", *line.split(" ", 1)])
        self._open_ports()
        self.run(["postconf", "-e", *(f"{name}={value}" for name, value in self._harness().items())])
        self.run(["postfix", "check"])

    def _compile_mechanism(self) -> None:
        """Compile the SASL mechanism as the bake does. Errors: BuilderError without a compiler."""
        source = self._sandbox.folder / "sasl-source"
        source.mkdir(parents=True)
        for path, text in self._rendered.items():
            if path.startswith(_SASL):
                (source / path.removeprefix(_SASL)).write_text(text)
        self._sandbox.copy_sasl_plugins()
        process.run(["sh", source / "build.sh", self._sandbox.sasl_plugins])

    def _open_ports(self) -> None:
        """Open what the agent opens when the credential is proved, on other ports."""
        address = f"127.0.0.1:{self.smtp_address[1]}"
        self.run(["postconf", "-Me", f"{address}/inet={address} inet n - n - - smtpd"])
        settings: dict[str, Any] = json.loads(self._rendered[_AGENT])
        entry = settings.get("submission")
        if entry:
            self._make_user(entry)
            address = f"127.0.0.1:{self.submission_address[1]}"
            line = re.sub(rf"^{entry['service']}\b", address, entry["master_cf"])
            self.run(["postconf", "-Me", f"{address}/inet={line}"])

    def _make_user(self, submission: Mapping[str, Any]) -> None:
        """Write a certificate and one user, as the agent does from the secret."""
        certificate = trustme.CA().issue_cert("relay.internal").private_key_and_cert_chain_pem.bytes()
        self.write_file(submission["certificate_file"], certificate.decode("ascii"), mode=0o600)
        users, realm = submission["users_file"], submission["realm"]
        command = f"saslpasswd2 -p -c -f {users} -u {realm} {TEST_USER}"
        self.run(["sh", "-c", f"printf %s {TEST_PASSWORD} | {command}"])
        self.run(["sh", "-c", f"chgrp -R postfix {users} $(dirname {users}) && chmod 640 {users}"])

    def _harness(self) -> dict[str, str]:
        """Return what differs from the image: no syslog here, and clients that may play others."""
        return {
            "smtp_tls_CAfile": "/run/relay/ca.pem",
            "smtpd_authorized_xclient_hosts": "127.0.0.1",
            "maillog_file": _LOG,
            **self._parameters,
        }

    def _here(self, text: str) -> str:
        """Put the stand-ins' ports and the sandbox's places into a rendered text."""
        for real, private in _MOVED.items():
            text = text.replace(real, private)
        for host, port in self._ports.items():
            text = re.sub(rf"\[{re.escape(host)}\]:\d+", f"[{host}]:{port}", text)
        return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

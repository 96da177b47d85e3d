"""Prove a credential with a real AUTH at the provider, and never show it to anyone else."""

from __future__ import annotations

import base64
import smtplib
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from relay_agent import logs
from relay_agent.credential import Credential
from relay_agent.deadline import Deadline
from relay_agent.settings import Upstream
from relay_agent.trouble import Trouble

_PERSON = "Correct the secret: `builder secret check`, then `builder secret put`"


@dataclass(frozen=True)
class Prover:
    """Logs in and out again; `ca_file` is the file that Postfix trusts too.

    Each read waits `timeout_seconds`, the whole probe `deadline_seconds` (a server may drip).
    """

    ca_file: Path
    hello: str
    timeout_seconds: float = 15.0
    deadline_seconds: float = 45.0

    def prove(self, upstream: Upstream, credential: Credential) -> None:
        """Return when the provider accepts the credential.

        Errors: Trouble `auth-refused` (lasting: the credential is wrong), `auth-temporary` (454, 421, …),
        `upstream-temporary`, `-unreachable`, `-dns`, `-untrusted`, `-tls`, `-no-starttls` or `-no-auth`.
        Nothing is sent before the certificate has been checked against the name.
        """
        logs.hide_login(credential.username, credential.password)
        where = f"{upstream.host}:{upstream.port}"
        try:
            server = self._client(upstream)
        except OSError as error:
            raise _by_socket(where, error) from None
        try:
            with Deadline(self.deadline_seconds, lambda: server.sock):
                self._greet(server, upstream)
                self._log_in(server, upstream, credential, where)
        except smtplib.SMTPServerDisconnected:
            raise _unreachable(where, "the connection was closed in the middle") from None
        except smtplib.SMTPResponseException as error:
            raise _by_reply(where, "STARTTLS", error.smtp_code, error.smtp_error) from None
        except (OSError, ValueError) as error:
            raise _by_socket(where, error) from None
        finally:
            server.close()

    def _context(self) -> ssl.SSLContext:
        # Name and chain are checked; the file must be there, or nothing could be trusted.
        context = ssl.create_default_context(cafile=str(self.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _client(self, upstream: Upstream) -> smtplib.SMTP:
        if upstream.tls == "implicit":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                local_hostname=self.hello, timeout=self.timeout_seconds, context=self._context()
            )
        else:
            server = smtplib.SMTP(local_hostname=self.hello, timeout=self.timeout_seconds)
        # The name that the certificate is checked against. Only the constructor sets it, and connecting there
        # would leave a greeting that drips without a deadline.
        server._host = upstream.host  # type: ignore[attr-defined]
        return server

    def _greet(self, server: smtplib.SMTP, upstream: Upstream) -> None:
        where = f"{upstream.host}:{upstream.port}"
        code, reply = server.connect(upstream.host, upstream.port)
        if code != 220:
            raise _by_reply(where, "the greeting", code, reply)
        self._hello(server, where)
        if upstream.tls != "starttls":
            return
        if not server.has_extn("starttls"):
            raise Trouble(
                "upstream-no-starttls",
                f"{where} does not offer STARTTLS; nothing was sent to it",
                hint="Something between here and the provider takes it out, or the port is wrong",
            )
        server.starttls(context=self._context())
        self._hello(server, where)

    @staticmethod
    def _hello(server: smtplib.SMTP, where: str) -> None:
        code, reply = server.ehlo()
        if code != 250:
            raise _by_reply(where, "EHLO", code, reply)

    def _log_in(self, server: smtplib.SMTP, upstream: Upstream, credential: Credential, where: str) -> None:
        if not isinstance(server.sock, ssl.SSLSocket):
            raise Trouble("upstream-tls", f"{where} is not under TLS; nothing was sent to it")
        mechanism = self._mechanism(server, upstream, where)
        code, reply = 0, b""
        for command in _commands(mechanism, credential):
            code, reply = server.docmd(command)
            if code != 334:
                break
        if code != 235:
            raise _by_reply(where, f"AUTH {mechanism.upper()}", code, reply)
        server.docmd("QUIT")

    @staticmethod
    def _mechanism(server: smtplib.SMTP, upstream: Upstream, where: str) -> str:
        offered = server.esmtp_features.get("auth", "").lower().replace("=", " ").split()
        for mechanism in upstream.mechanisms:
            if mechanism in offered:
                return mechanism
        raise Trouble(
            "upstream-no-auth",
            f"{where} offers AUTH {' '.join(offered).upper() or 'not at all'}; expected one of "
            f"{' '.join(upstream.mechanisms).upper()}",
            hint="Check the upstream's port: some ports of a provider take no logins",
        )


def _commands(mechanism: str, credential: Credential) -> Iterator[str]:
    """Give the lines to send, in turn, for as long as the server answers 334."""
    user, password = credential.username, credential.password
    if mechanism == "plain":
        yield "AUTH PLAIN " + _encode(f"\0{user}\0{password}")
    elif mechanism == "login":
        yield "AUTH LOGIN"
        yield _encode(user)
        yield _encode(password)
    else:
        # https://developers.google.com/workspace/gmail/imap/xoauth2-protocol; an error comes as 334 + JSON
        # and wants an empty line before its 535.
        yield "AUTH XOAUTH2 " + _encode(f"user={user}\1auth=Bearer {password}\1\1")
        yield ""


def _encode(text: str) -> str:
    encoded = base64.b64encode(text.encode("utf-8")).decode("ascii")
    logs.hide(encoded)
    return encoded


def _by_reply(where: str, step: str, code: int, reply: bytes | str) -> Trouble:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    said = logs.clean(f"{code} {' '.join(text.split())}")[:300]
    if step.startswith("AUTH") and 500 <= code < 600:
        return Trouble("auth-refused", f"{where} refused the credential: {said}", hint=_PERSON, lasting=True)
    code_name = "auth-temporary" if step.startswith("AUTH") else "upstream-temporary"
    return Trouble(code_name, f"{where} answered `{said}` to {step}; it is tried again")


def _unreachable(where: str, why: str) -> Trouble:
    return Trouble(
        "upstream-unreachable",
        f"{where} cannot be reached ({why})",
        hint="Check outgoing firewall rules and security groups; EC2 throttles port 25, so use 587",
    )


def _by_socket(where: str, error: Exception) -> Trouble:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Trouble(
            "upstream-untrusted",
            f"{where} showed a certificate that cannot be trusted ({error.verify_message}); "
            "nothing was sent to it",
            hint="Something answers in the provider's place, or the CA bundle is old: "
            "`apt-get install --only-upgrade ca-certificates`",
        )
    if isinstance(error, ssl.SSLError):
        return Trouble("upstream-tls", f"TLS with {where} failed ({error.reason or error})")
    if isinstance(error, socket.gaierror):
        return Trouble(
            "upstream-dns",
            f"{where} cannot be found in DNS ({error.strerror})",
            hint="Check `resolvectl status`",
        )
    if isinstance(error, FileNotFoundError):
        return Trouble(
            "upstream-untrusted",
            f"There are no certificate authorities to check {where} against; nothing was sent to it",
            hint="`apt-get install --reinstall ca-certificates`",
        )
    return _unreachable(where, getattr(error, "strerror", None) or str(error) or type(error).__name__)

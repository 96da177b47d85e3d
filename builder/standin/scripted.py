"""aiosmtpd's session with the script in front of each command: delays, refusals, broken connections."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from aiosmtpd import smtp as aiosmtpd_smtp

from builder.standin.behaviour import Behaviour, Fault, Stage
from builder.standin.certificates import Certificates
from builder.standin.journal import Journal, Refusal, Session
from builder.standin.script import Script, Situation
from builder.standin.users import Users

_STAGES = {
    "HELO": Stage.EHLO,
    "EHLO": Stage.EHLO,
    "STARTTLS": Stage.STARTTLS,
    "MAIL": Stage.MAIL,
    "RCPT": Stage.RCPT,
    "DATA": Stage.DATA,
    "RSET": Stage.RSET,
    "QUIT": Stage.QUIT,
}
_ADDRESS = re.compile(r"<([^>]*)>")
_LINGER_SECONDS = 1.0  # how long a client may take to close its side after a 421
_TOO_IDLE = b"451 4.4.2 Timeout waiting for data from client.\r\n"  # as Amazon SES
_AUTH_LINE_LIMIT = 12288  # RFC 4954, section 4
_DATA_LINE_LIMIT = 1001  # RFC 5321, section 4.5.3.1.6, with the dot


Authenticator = Callable[
    [aiosmtpd_smtp.SMTP, aiosmtpd_smtp.Session, aiosmtpd_smtp.Envelope, str, Any],
    aiosmtpd_smtp.AuthResult,
]


@dataclass
class Shared:
    """What all sessions of one provider have in common."""

    host_names: tuple[str, ...]
    mechanisms: tuple[str, ...]
    size_limit: int
    smtputf8: bool
    pipelining: bool
    requires_tls: bool
    idle_seconds: float
    script: Script
    journal: Journal
    users: Users
    certificates: Certificates
    running: set[ScriptedSMTP] = field(default_factory=set)
    errors: list[Exception] = field(default_factory=list)


class _QuietSession(aiosmtpd_smtp.Session):
    """aiosmtpd warns whenever its own AUTH sets `login_data`; nobody here reads it."""

    @property
    def login_data(self) -> Any:
        return None

    @login_data.setter
    def login_data(self, value: Any) -> None:
        return


class ScriptedSMTP(aiosmtpd_smtp.SMTP):
    """A session: aiosmtpd reads the commands and keeps SMTP's order, `_run` is called for each.

    `smtp.ProviderSMTP` adds what a provider says to EHLO, AUTH and a message.
    """

    command_size_limits: dict[str, int] = defaultdict(lambda: _AUTH_LINE_LIMIT)
    line_length_limit = _AUTH_LINE_LIMIT + 2
    AuthLoginUsernameChallenge = "Username:"
    AuthLoginPasswordChallenge = "Password:"
    seen: Session  # set when the client has connected

    def __init__(
        self, shared: Shared, hooks: object, *, implicit_tls: bool, authenticator: Authenticator
    ) -> None:
        super().__init__(
            hooks,
            data_size_limit=shared.size_limit,
            enable_SMTPUTF8=shared.smtputf8,
            hostname=shared.host_names[0],
            ident="ESMTP builder stand-in",
            timeout=shared.idle_seconds,
            auth_require_tls=False,
            auth_exclude_mechanism={"PLAIN", "LOGIN", "XOAUTH2"} - set(shared.mechanisms),
            authenticator=authenticator,
            loop=asyncio.get_running_loop(),
        )
        self.line_length_limit = _DATA_LINE_LIMIT  # the reader has the wider one for AUTH
        self._shared = shared
        self._implicit_tls = implicit_tls
        self._has_begun = False
        self._command = ""
        self._now = Situation(for_session=shared.script.take_for_session())
        self._certificate = shared.script.certificate(self._now)
        self._smtp_methods = {
            name: partial(self._run, name, method) for name, method in self._smtp_methods.items()
        }

    # -- the connection

    def begin(self, transport: asyncio.BaseTransport) -> None:
        """Record that a client has connected."""
        peer = transport.get_extra_info("peername") or ("", 0)
        self.seen = self._shared.journal.open_session(
            (str(peer[0]), int(peer[1])), implicit_tls=self._implicit_tls
        )
        if self._implicit_tls:
            self._shared.journal.note(self.seen, certificate=self._certificate)
        self._shared.running.add(self)
        self._has_begun = True

    def choose_context(self) -> ssl.SSLContext:
        """Return the TLS context with the certificate that the script asks for now."""
        self._certificate = self._shared.script.certificate(self._now)
        return self._shared.certificates.context(self._certificate)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection; called a second time when STARTTLS has made it a TLS one."""
        if not self._has_begun:
            self.begin(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._shared.journal.note(self.seen, tls_version=tls.version(), user="")
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Record the end of the connection."""
        if isinstance(error, ssl.SSLError):
            self.note_tls_error(error)
        self.forget()
        super().connection_lost(error)

    def forget(self) -> None:
        """Record that the session is over."""
        self._shared.journal.close_session(self.seen, "client")
        self._shared.running.discard(self)

    def note_tls_error(self, error: BaseException) -> None:
        """Record why TLS did not come up: here a client says that it refuses the certificate."""
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        self._shared.journal.note(self.seen, tls_error=str(reason))

    def end(self, *, at_once: bool) -> None:
        """End the session from this side: with what is still unsent, or at once as a crash would."""
        self._shared.journal.close_session(self.seen, "provider")
        transport = self.transport
        if not isinstance(transport, asyncio.WriteTransport):
            return
        if at_once:
            _abort(transport)
        else:
            transport.close()
            self.loop.call_later(_LINGER_SECONDS, _abort, transport)

    def _create_session(self) -> aiosmtpd_smtp.Session:
        return _QuietSession(self.loop)

    def _timeout_cb(self) -> None:
        self._shared.journal.close_session(self.seen, "idle")
        self._writer.write(_TOO_IDLE)
        super()._timeout_cb()  # type: ignore[no-untyped-call]

    async def _handle_client(self) -> None:
        try:
            if await self._passes(Stage.GREETING, ""):
                await super()._handle_client()
            else:
                self.end(at_once=False)
        except ConnectionError:
            return  # the client has gone; connection_lost has recorded it

    async def handle_exception(self, error: Exception) -> str:
        """Record what went wrong; aiosmtpd sends what this returns."""
        if isinstance(error, aiosmtpd_smtp.TLSSetupException):
            self.note_tls_error(error.__cause__ or error)
        elif not isinstance(error, ConnectionError):
            self._shared.errors.append(error)
        return "451 4.3.0 The stand-in failed"

    # -- each command

    async def _run(self, name: str, method: Any, arg: str | None) -> None:
        """Answer one command: what the script says comes first, then what every provider requires."""
        self._command = _without_credential(f"{name} {arg or ''}")
        if name == "MAIL":
            self._begin_message(arg)
        stage = _STAGES.get(name)
        if stage is None or await self._passes(stage, self._subject(name, arg)):
            refusal = self._required(name)
            if refusal:
                await self._refuse(refusal, stage)
            else:
                await method(arg)
        self._command = ""

    def _required(self, name: str) -> str:
        """Return the refusal of a command that comes too early, or nothing."""
        if name == "STARTTLS":
            if self.seen.tls_version or self._script_has(Fault.NO_STARTTLS):
                return "502 5.5.1 Command not implemented"
            self.tls_context = self.choose_context()
            self._shared.journal.note(self.seen, certificate=self._certificate)
        if name in ("MAIL", "AUTH") and not self._may_go_on():
            return "530 Must issue a STARTTLS command first"
        if name == "MAIL" and self._shared.users and not self.seen.user:
            return "530 Authentication required"
        return ""

    def _may_go_on(self) -> bool:
        """Say whether the channel is good enough for AUTH and MAIL."""
        if self.seen.tls_version or not self._shared.requires_tls:
            return True
        return self._script_has(Fault.NO_STARTTLS)

    def _subject(self, name: str, arg: str | None) -> str:
        if name == "RCPT":
            found = _ADDRESS.search(arg or "")
            return found.group(1) if found else ""
        return self._now.sender

    def _begin_message(self, arg: str | None) -> None:
        found = _ADDRESS.search(arg or "")
        self._now.sender = found.group(1) if found else ""
        self._now.for_message = self._shared.script.take_for_message()
        self._shared.journal.note(self.seen, mails=self.seen.mails + 1)

    def _script_has(self, fault: Fault) -> bool:
        return self._shared.script.has(fault, self._now)

    async def _passes(self, stage: Stage, subject: str) -> bool:
        """Do what the script asks for at this stage; False when that was the answer."""
        verdict = await self._ask_script(stage, subject)
        if verdict is None:
            return True
        if verdict.fault is Fault.DROP:
            self._break(stage, subject)
        await self._refuse(verdict.answer, stage, subject, throttled=verdict.fault is Fault.RATE)
        return False

    async def _ask_script(self, stage: Stage, subject: str) -> Behaviour | None:
        """Return the behaviour that decides this stage, after the delay that the script asks for."""
        self._now.messages = self.seen.messages
        self._now.recipients = self.envelope.rcpt_tos if self.envelope else []
        self._now.open_sessions = self._shared.journal.counts.open_sessions
        outcome = self._shared.script.at(stage, subject, self._now)
        if outcome.delay_seconds:
            self._reset_timeout(outcome.delay_seconds + self._shared.idle_seconds)
            await asyncio.sleep(outcome.delay_seconds)
            self._reset_timeout()
        return outcome.verdict

    async def _refuse(
        self, reply: str, stage: Stage | None, subject: str = "", *, throttled: bool = False
    ) -> None:
        if stage is not None:
            self._note_refusal(stage, reply, subject, throttled=throttled)
        await self.push(reply)

    def _note_refusal(self, stage: Stage, reply: str, subject: str, *, throttled: bool = False) -> None:
        refusal = Refusal(self.seen.number, time.time(), stage, reply, subject)
        self._shared.journal.note_refusal(refusal, throttled=throttled)

    def _break(self, stage: Stage, subject: str) -> NoReturn:
        """End the session without an answer."""
        self._note_refusal(stage, "", subject)
        self._shared.journal.note_reply(self.seen, self._command, "")
        self.end(at_once=True)
        raise asyncio.CancelledError

    async def push(self, status: str | bytes) -> None:
        """Send a reply and record it; a 421 ends the session."""
        text = status.decode("ascii", "replace") if isinstance(status, bytes) else status
        text = await self._last_word(text)
        # All is recorded before the client can read the reply, so that a test needs no pause.
        self._shared.journal.note_reply(self.seen, self._command, text)
        if text.startswith("421"):
            self._shared.journal.close_session(self.seen, "provider")
        await super().push(text)
        if text.startswith("421"):
            self.end(at_once=False)
            raise asyncio.CancelledError
        if text.startswith("354") and not await self._passes(Stage.BODY, self._now.sender):
            raise asyncio.CancelledError

    async def _last_word(self, reply: str) -> str:
        """Return the reply that is sent instead of this one; a subclass may change it."""
        return reply


def _without_credential(command: str) -> str:
    words = command.split()
    return " ".join(words[:2]) if words[:1] == ["AUTH"] else command.rstrip()


def _abort(transport: asyncio.WriteTransport) -> None:
    """End a connection at once, also one that is closed already.

    There a TLS transport of Python 3.11.2, Debian 12's, raises AttributeError; 3.11.7 does not.
    """
    with contextlib.suppress(AttributeError):
        transport.abort()

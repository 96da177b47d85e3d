"""One session of the provider stand-in: what a provider says to EHLO, AUTH and a message."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import time
from asyncio.sslproto import SSLProtocol
from typing import Any

from aiosmtpd import smtp as aiosmtpd_smtp

from builder.standin.behaviour import Fault, Stage
from builder.standin.journal import AuthAttempt, Message
from builder.standin.scripted import ScriptedSMTP, Shared
from builder.standin.users import digest

_OK, _NOT_OK = "235 Authentication successful.", "535 Authentication Credentials Invalid"


class _Hooks:
    """The places where aiosmtpd lets others answer; the session does."""

    async def handle_EHLO(
        self, server: ProviderSMTP, session: Any, _envelope: Any, name: str, lines: list[str]
    ) -> list[str]:
        session.host_name = name
        return server.ehlo_lines(name, lines)

    async def handle_DATA(self, server: ProviderSMTP, _session: Any, envelope: aiosmtpd_smtp.Envelope) -> str:
        return await server.end_of_data(envelope)


_HOOKS = _Hooks()


class ProviderSMTP(ScriptedSMTP):
    """A session with a provider."""

    def __init__(self, shared: Shared, *, implicit_tls: bool) -> None:
        self._attempt: AuthAttempt | None = None
        super().__init__(shared, _HOOKS, implicit_tls=implicit_tls, authenticator=self._check_password)

    def ehlo_lines(self, name: str, lines: list[str]) -> list[str]:
        """Return the lines of the EHLO reply: aiosmtpd's, with STARTTLS and AUTH as the script wants them."""
        self._shared.journal.note(self.seen, helo=name)
        ours = ("AUTH", "STARTTLS", "HELP")
        keywords = [line[4:] for line in lines if not line[4:].startswith(ours)]
        if self._shared.pipelining:
            keywords.append("PIPELINING")
        if not self.seen.tls_version and not self._script_has(Fault.NO_STARTTLS):
            keywords.append("STARTTLS")
        if self._may_go_on() and self._shared.users and not self._script_has(Fault.NO_AUTH):
            keywords.append("AUTH " + " ".join(self._shared.mechanisms))
        # One reply, one packet.
        return ["\r\n".join([*(f"250-{keyword}" for keyword in keywords), "250 Ok"])]

    async def _run(self, name: str, method: Any, arg: str | None) -> None:
        if name == "AUTH":
            mechanism, space, rest = (arg or "").partition(" ")
            self._attempt = self._shared.journal.open_auth(
                self.seen, mechanism.upper(), encrypted=bool(self.seen.tls_version)
            )
            arg = mechanism.upper() + space + rest  # aiosmtpd knows mechanisms in capitals only
        await super()._run(name, method, arg)

    async def _last_word(self, reply: str) -> str:
        if self._attempt is None or reply.startswith("334"):
            return reply
        return await self._end_auth(self._attempt, reply)

    def _check_password(
        self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, given: Any
    ) -> aiosmtpd_smtp.AuthResult:
        user = given.login.decode("utf-8", "replace")
        password_is, is_valid = self._shared.users.check(user, given.password)
        if self._attempt is not None:
            self._shared.journal.note_auth(
                self._attempt,
                user=user,
                password_is=password_is,
                password_digest=digest(given.password),
            )
        return aiosmtpd_smtp.AuthResult(
            success=is_valid,
            handled=False,
            message=_OK if is_valid else _NOT_OK,
        )

    async def _end_auth(self, attempt: AuthAttempt, reply: str) -> str:
        """Let the script change the answer to an AUTH, then record it."""
        self._attempt = None
        verdict = await self._ask_script(Stage.AUTH, attempt.user)
        if verdict is not None and verdict.fault is Fault.DROP:
            self._break(Stage.AUTH, attempt.user)
        if verdict is not None:
            reply = verdict.answer
            if self.session is not None:
                self.session.authenticated = None  # else aiosmtpd answers 503 to the next try
        accepted = reply.startswith("235")
        self._shared.journal.note_auth(attempt, reply=reply, accepted=accepted)
        if accepted:
            self._shared.journal.note(self.seen, user=attempt.user)
        else:
            self._note_refusal(Stage.AUTH, reply, attempt.user)
        return reply

    async def auth_XOAUTH2(self, _server: Any, args: list[str]) -> aiosmtpd_smtp.AuthResult:
        """Take a bearer token: developers.google.com/gmail/imap/xoauth2-protocol, "SASL XOAUTH2"."""
        blob = await self._initial_response(args)
        found = re.fullmatch(rb"user=([^\x01]*)\x01auth=Bearer ([^\x01]*)\x01\x01", blob or b"")
        if blob is None or found is None:
            if blob is not None:
                await self.push("501 5.5.2 Cannot decode the response")
            return aiosmtpd_smtp.AuthResult(success=False)
        login = aiosmtpd_smtp.LoginPassword(found.group(1), found.group(2))
        result = self._authenticate("XOAUTH2", login)
        if not result.success:
            problem = {"status": "401", "schemes": "bearer", "scope": "https://mail.google.com/"}
            if await self.challenge_auth(json.dumps(problem)) is aiosmtpd_smtp.MISSING:
                return aiosmtpd_smtp.AuthResult(success=False)
        return result

    async def _initial_response(self, args: list[str]) -> bytes | None:
        if len(args) == 1:
            answer = await self.challenge_auth("")
            return answer if isinstance(answer, bytes) else None
        try:
            return base64.b64decode(args[1], validate=True)
        except binascii.Error:
            return b""

    async def end_of_data(self, envelope: aiosmtpd_smtp.Envelope) -> str:
        """Record the message and return the reply to its final dot."""
        content = envelope.original_content or b""
        sender = self._now.sender
        self._now.size = len(content)
        verdict = await self._ask_script(Stage.END_OF_DATA, sender)
        is_accepted = verdict is None or verdict.fault is Fault.LOST_REPLY
        reply = f"250 Ok {self.seen.number:06x}-{self.seen.messages + 1:06x}"
        if verdict is not None:
            reply = verdict.answer
        self._note_message(envelope, content, reply, is_accepted=is_accepted)
        self._now.for_message = ()
        if not reply:
            self._break(Stage.END_OF_DATA, sender)
        if not is_accepted:
            self._note_refusal(Stage.END_OF_DATA, reply, sender)
        return reply

    def _note_message(
        self, envelope: aiosmtpd_smtp.Envelope, content: bytes, reply: str, *, is_accepted: bool
    ) -> None:
        message = Message(
            number=0,
            session=self.seen.number,
            time=time.time(),
            sender=self._now.sender,
            recipients=tuple(envelope.rcpt_tos),
            content=content,
            size=len(content),
            user=self.seen.user,
            tls_version=self.seen.tls_version,
            reply=reply,
            accepted=is_accepted,
            mail_options=tuple(envelope.mail_options),
        )
        self._shared.journal.note_message(self.seen, message)


class ImplicitTls(SSLProtocol):
    """TLS from the first byte in front of a session, so that each connection can have its own certificate."""

    def __init__(self, session: ProviderSMTP) -> None:
        self._session = session
        loop = asyncio.get_running_loop()
        handshake = loop.create_future()
        handshake.add_done_callback(self._handshake_done)
        super().__init__(loop, session, session.choose_context(), handshake, server_side=True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection and begin the handshake."""
        self._session.begin(transport)
        super().connection_made(transport)

    def _handshake_done(self, handshake: asyncio.Future[None]) -> None:
        error = None if handshake.cancelled() else handshake.exception()
        if error is not None:
            self._session.note_tls_error(error)
            self._session.forget()

"""What the provider stand-in saw: sessions, AUTH attempts, messages, refusals."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from email.message import Message as EmailMessage
from email.parser import BytesParser
from email.policy import compat32
from threading import Condition
from typing import Any, Literal, TypeVar

from builder.errors import BuilderError
from builder.standin.behaviour import Certificate, Stage

T = TypeVar("T")


class NotSeenError(BuilderError):
    """What was waited for did not happen in time."""


@dataclass
class AuthAttempt:
    """One AUTH command, recorded as soon as its line is read; the password itself is never kept.

    `password_is` says which password of that user came: the current one, an older one, or neither; it is
    empty when none came. `password_digest` is its SHA-256 in hexadecimal.
    """

    session: int
    time: float
    mechanism: str
    encrypted: bool
    certificate: Certificate | None
    user: str = ""
    password_is: Literal["current", "old", "neither", ""] = ""
    password_digest: str = ""
    accepted: bool = False
    reply: str = ""

    @property
    def is_leak(self) -> bool:
        """Say whether it came in the clear, or to someone whose certificate must not be trusted."""
        return not self.encrypted or self.certificate is not Certificate.GOOD


@dataclass(frozen=True)
class Message:
    """One message that came in whole: `content` is as the client meant it, without the dots of SMTP.

    `accepted` with an empty `reply` is a message whose 250 was lost on the way.
    """

    number: int
    session: int
    time: float
    sender: str
    recipients: tuple[str, ...]
    content: bytes = field(repr=False)
    size: int
    user: str
    tls_version: str
    reply: str
    accepted: bool
    mail_options: tuple[str, ...] = ()

    @property
    def parsed(self) -> EmailMessage:
        """The message as an email object."""
        return BytesParser(policy=compat32).parsebytes(self.content)

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """All header fields in order, unfolded nowhere."""
        return tuple((name, str(value)) for name, value in self.parsed.items())

    @property
    def message_id(self) -> str:
        """The Message-ID header, or nothing."""
        return str(self.parsed.get("Message-ID", "")).strip()

    @property
    def subject(self) -> str:
        """The Subject header, or nothing."""
        return str(self.parsed.get("Subject", ""))

    @property
    def body(self) -> bytes:
        """What follows the empty line."""
        return self.content.partition(b"\r\n\r\n")[2]

    def to_json(self) -> dict[str, Any]:
        """Return it for JSON: the content as text, with what is no UTF-8 replaced."""
        text = self.content.decode("utf-8", "replace")
        return {**asdict(self), "content": text, "message_id": self.message_id, "subject": self.subject}


@dataclass(frozen=True)
class Refusal:
    """A command that got a 4xx or 5xx, or no answer at all: `reply` is then empty."""

    session: int
    time: float
    stage: Stage
    reply: str
    subject: str = ""


@dataclass
class Session:
    """One connection; `exchange` has each command (never a credential) with its reply.

    `ended_by` is `client`, `provider` or, when nothing was said for too long, `idle`.
    """

    number: int
    opened: float
    peer: tuple[str, int]
    implicit_tls: bool
    certificate: Certificate | None = None
    tls_version: str = ""
    tls_error: str = ""
    helo: str = ""
    user: str = ""
    auths: list[AuthAttempt] = field(default_factory=list)
    exchange: list[tuple[str, str]] = field(default_factory=list)
    mails: int = 0
    messages: int = 0
    closed: float | None = None
    ended_by: Literal["client", "provider", "idle", ""] = ""


@dataclass(frozen=True)
class Counts:
    """How often things happened; `offered` counts MAIL commands, `throttled` those over the `rate`."""

    sessions: int = 0
    open_sessions: int = 0
    peak_sessions: int = 0
    tls_handshakes: int = 0
    auths: int = 0
    auths_refused: int = 0
    offered: int = 0
    throttled: int = 0
    messages: int = 0
    refused: int = 0


class Journal:
    """All records of one provider. Each method takes the lock, so that readers never see half an entry."""

    def __init__(self, *, keep_content: bool, keep_exchange: bool) -> None:
        self._changed = Condition()
        self._keep_content = keep_content
        self._keep_exchange = keep_exchange
        self._started = 0
        self.forget()

    def forget(self) -> None:
        """Drop all records; sessions that are open go on and stay known."""
        with self._changed:
            alive = [s for s in getattr(self, "_sessions", {}).values() if s.closed is None]
            self._sessions: dict[int, Session] = {s.number: s for s in alive}
            self._messages: list[Message] = []
            self._refused_messages: list[Message] = []
            self._refusals: list[Refusal] = []
            self._auths: list[AuthAttempt] = []
            self._counts = Counts(open_sessions=len(alive), peak_sessions=len(alive))
            self._changed.notify_all()

    # -- written by the sessions

    def open_session(self, peer: tuple[str, int], *, implicit_tls: bool) -> Session:
        """Begin a session; its number is unique for the life of the provider."""
        with self._changed:
            self._started += 1
            session = Session(self._started, time.time(), peer, implicit_tls)
            self._sessions[session.number] = session
            now_open = self._counts.open_sessions + 1
            self._count(
                sessions=1, open_sessions=1, peak_sessions=max(0, now_open - self._counts.peak_sessions)
            )
            return session

    def close_session(self, session: Session, ended_by: Literal["client", "provider", "idle"]) -> None:
        """End a session; who ended it first stays."""
        with self._changed:
            if session.closed is None:
                session.closed = time.time()
                session.ended_by = session.ended_by or ended_by
                self._count(open_sessions=-1)

    def note(self, session: Session, **changes: Any) -> None:
        """Set fields of a session."""
        with self._changed:
            for name, value in changes.items():
                setattr(session, name, value)
            self._count(tls_handshakes=int("tls_version" in changes), offered=int("mails" in changes))

    def note_reply(self, session: Session, command: str, reply: str) -> None:
        """Add one command with its reply to a session."""
        if self._keep_exchange:
            with self._changed:
                session.exchange.append((command, reply))
                self._changed.notify_all()

    def open_auth(self, session: Session, mechanism: str, *, encrypted: bool) -> AuthAttempt:
        """Record an AUTH attempt before anything else is done with it."""
        with self._changed:
            attempt = AuthAttempt(session.number, time.time(), mechanism, encrypted, session.certificate)
            session.auths.append(attempt)
            self._auths.append(attempt)
            self._count(auths=1)
            return attempt

    def note_auth(self, attempt: AuthAttempt, **changes: Any) -> None:
        """Set fields of an AUTH attempt."""
        with self._changed:
            for name, value in changes.items():
                setattr(attempt, name, value)
            self._count(auths_refused=int("reply" in changes and not attempt.accepted))

    def note_message(self, session: Session, message: Message) -> None:
        """Add a message that came in whole; its number is set here."""
        with self._changed:
            kept = self._messages if message.accepted else self._refused_messages
            content = message.content if self._keep_content else b""
            kept.append(replace(message, number=len(kept) + 1, content=content))
            if message.accepted:
                session.messages += 1
                self._count(messages=1)

    def note_refusal(self, refusal: Refusal, *, throttled: bool) -> None:
        """Add a command that was refused."""
        with self._changed:
            self._refusals.append(refusal)
            self._count(refused=1, throttled=int(throttled))

    def _count(self, **more: int) -> None:
        now = {name: getattr(self._counts, name) + number for name, number in more.items()}
        self._counts = replace(self._counts, **now)
        self._changed.notify_all()

    # -- read by tests and commands

    @property
    def counts(self) -> Counts:
        """The counters as they are now."""
        return self._counts

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages that were accepted, in order."""
        with self._changed:
            return tuple(self._messages)

    @property
    def refused_messages(self) -> tuple[Message, ...]:
        """The messages that came in whole and were not accepted, in order."""
        with self._changed:
            return tuple(self._refused_messages)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Each command that got a 4xx, a 5xx or no answer, in order."""
        with self._changed:
            return tuple(self._refusals)

    @property
    def auths(self) -> tuple[AuthAttempt, ...]:
        """Each AUTH attempt of all sessions, in order."""
        with self._changed:
            return tuple(replace(attempt) for attempt in self._auths)

    @property
    def sessions(self) -> tuple[Session, ...]:
        """A copy of each session, in the order of connecting."""
        with self._changed:
            return tuple(
                replace(
                    session,
                    auths=[replace(attempt) for attempt in session.auths],
                    exchange=list(session.exchange),
                )
                for session in self._sessions.values()
            )

    def wait_for(self, predicate: Callable[[], T], *, timeout_seconds: float) -> T:
        """Wait until `predicate` is true and return what it gave; it is asked after each change.

        Errors: NotSeenError with the counters when that has not happened in time.
        """
        with self._changed:
            found = self._changed.wait_for(predicate, timeout_seconds)
            if found:
                return found
            raise NotSeenError(
                "The provider stand-in did not see what was waited for within "
                f"{timeout_seconds:.0f} s; it saw {_sentence(self._counts)}"
            )


def _sentence(counts: Counts) -> str:
    return ", ".join(f"{name} {number}" for name, number in asdict(counts).items())

"""The script of the provider stand-in: what it can be told to do wrong, and what a client then sees.

A `Behaviour` is one `Fault` with its details. Those that are set act together; where several would
answer the same command, the first one set wins, and one set for the next messages or sessions comes
before one set in general. A reply of 421 always ends the session.

    fault                 stage        what a client sees
    greeting_421          greeting     421 and a closed connection; with `limit`, only while more than
                                       `limit` sessions are open
    session_421           mail         421 in the middle of a session, then the end of it
    session_cut           mail         421 at the message after `limit` messages of one session
    throttled             mail         454 Throttling failure
    rate                  mail         454 for what exceeds `limit` messages in `seconds` (default 1)
    daily_quota           mail         454 Daily message quota exceeded
    gmail_quota           mail         550 5.4.5 (Gmail's hard reply; also sent at rcpt and end_of_data)
    auth_temporary        auth         454 4.7.0 Temporary authentication failure
    auth_refused          auth         535, also for the right password
    auth_required         mail         530, also after a successful AUTH
    unknown_recipient     rcpt         550 5.1.1
    greylisted            rcpt         451 at the first try of a sender and recipient, and until
                                       `seconds` have passed
    too_many_recipients   rcpt         452 for each recipient after the first `limit` of a message
    not_verified          end_of_data  554 Email address is not verified
    too_big               end_of_data  552 for a message of more than `limit` bytes
    reply                 any          the text in `reply`; needs `stage`
    slow                  every one    the right answer, `seconds` late; `stage` limits it to one
    stall                 body         nothing is read or said for `seconds` (default an hour)
    drop                  greeting     the connection breaks without an answer
    lost_reply            end_of_data  the message is accepted, but the connection breaks before the 250
    refuse                connect      connection refused; sessions that are open go on
    no_starttls           ehlo         STARTTLS is not offered; AUTH is, and is taken in the clear, as
                                       someone in the middle would do
    no_auth               ehlo         AUTH is not offered (but still recorded when a client tries)
    certificate           starttls     another certificate, named in `certificate`

Without any behaviour the provider offers STARTTLS, AUTH inside TLS, answers 530 to what is not
authenticated, 535 to a wrong password, and accepts every message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from builder.errors import BuilderError


class Stage(StrEnum):
    """A moment of an SMTP session; `body` is after 354, `end_of_data` after the final dot."""

    CONNECT = "connect"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    BODY = "body"
    END_OF_DATA = "end_of_data"
    RSET = "rset"
    QUIT = "quit"


class Certificate(StrEnum):
    """The certificates that the provider can show; only `good` may be trusted."""

    GOOD = "good"
    WRONG_NAME = "wrong_name"
    EXPIRED = "expired"
    UNKNOWN_CA = "unknown_ca"
    SELF_SIGNED = "self_signed"


class Fault(StrEnum):
    """What the provider can be told to do wrong; the table is in the text of this module."""

    GREETING_421 = "greeting_421"
    SESSION_421 = "session_421"
    SESSION_CUT = "session_cut"
    THROTTLED = "throttled"
    RATE = "rate"
    DAILY_QUOTA = "daily_quota"
    GMAIL_QUOTA = "gmail_quota"
    AUTH_TEMPORARY = "auth_temporary"
    AUTH_REFUSED = "auth_refused"
    AUTH_REQUIRED = "auth_required"
    UNKNOWN_RECIPIENT = "unknown_recipient"
    GREYLISTED = "greylisted"
    TOO_MANY_RECIPIENTS = "too_many_recipients"
    NOT_VERIFIED = "not_verified"
    TOO_BIG = "too_big"
    REPLY = "reply"
    SLOW = "slow"
    STALL = "stall"
    DROP = "drop"
    LOST_REPLY = "lost_reply"
    REFUSE = "refuse"
    NO_STARTTLS = "no_starttls"
    NO_AUTH = "no_auth"
    CERTIFICATE = "certificate"


_AN_HOUR = 3600.0

# Texts as the providers send them: Amazon SES developer guide, "SMTP response codes"; Gmail help 3726730;
# the session limit as reported for SES since November 2026 (re:Post QUw5qK9rBFSKqXvW5a-nAteg).
_REPLIES: Mapping[Fault, tuple[Stage, str]] = {
    Fault.GREETING_421: (Stage.GREETING, "421 Too many concurrent SMTP connections"),
    Fault.SESSION_421: (Stage.MAIL, "421 4.4.2 Service not available, closing transmission channel"),
    Fault.SESSION_CUT: (
        Stage.MAIL,
        "421 Connection closed by server. Maximum message count per session reached.",
    ),
    Fault.THROTTLED: (Stage.MAIL, "454 Throttling failure: Maximum sending rate exceeded."),
    Fault.RATE: (Stage.MAIL, "454 Throttling failure: Maximum sending rate exceeded."),
    Fault.DAILY_QUOTA: (Stage.MAIL, "454 Throttling failure: Daily message quota exceeded."),
    Fault.GMAIL_QUOTA: (Stage.MAIL, "550 5.4.5 Daily user sending limit exceeded."),
    Fault.AUTH_TEMPORARY: (Stage.AUTH, "454 4.7.0 Temporary authentication failure"),
    Fault.AUTH_REFUSED: (Stage.AUTH, "535 Authentication Credentials Invalid"),
    Fault.AUTH_REQUIRED: (Stage.MAIL, "530 Authentication required"),
    Fault.UNKNOWN_RECIPIENT: (Stage.RCPT, "550 5.1.1 The email account does not exist"),
    Fault.GREYLISTED: (Stage.RCPT, "451 4.7.1 Greylisted, try again later"),
    Fault.TOO_MANY_RECIPIENTS: (Stage.RCPT, "452 4.5.3 Too many recipients"),
    Fault.NOT_VERIFIED: (
        Stage.END_OF_DATA,
        "554 Message rejected: Email address is not verified.",
    ),
    Fault.TOO_BIG: (Stage.END_OF_DATA, "552 Message is too long."),
}
_STAGES: Mapping[Fault, Stage] = {
    Fault.STALL: Stage.BODY,
    Fault.DROP: Stage.GREETING,
    Fault.LOST_REPLY: Stage.END_OF_DATA,
    Fault.REFUSE: Stage.CONNECT,
    Fault.NO_STARTTLS: Stage.EHLO,
    Fault.NO_AUTH: Stage.EHLO,
    Fault.CERTIFICATE: Stage.STARTTLS,
}
_NEED_LIMIT = (Fault.SESSION_CUT, Fault.RATE, Fault.TOO_MANY_RECIPIENTS)
_FIXED_STAGE = (Fault.LOST_REPLY, Fault.REFUSE, Fault.NO_STARTTLS, Fault.NO_AUTH, Fault.CERTIFICATE)


@dataclass(frozen=True)
class Behaviour:
    """One fault with its details; what is left out has the default of the module's table.

    `match` is a shell pattern that limits it to some: at `auth` to users, at `rcpt` to recipients, at the
    other stages of a message to senders. `reply` replaces the text of the answer. Errors: BuilderError
    when the details do not fit the fault.
    """

    fault: Fault
    stage: Stage | None = None
    limit: float = 0
    seconds: float = 0
    match: str = "*"
    reply: str = ""
    certificate: Certificate = Certificate.GOOD

    def __post_init__(self) -> None:
        if self.fault is Fault.REPLY and (self.stage is None or not self.reply):
            raise BuilderError("The behaviour `reply` needs a `stage` and a `reply`")
        if self.fault in _NEED_LIMIT and self.limit <= 0:
            raise BuilderError(f"The behaviour `{self.fault}` needs a `limit` above 0")
        if self.fault is Fault.SLOW and self.seconds <= 0:
            raise BuilderError("The behaviour `slow` needs `seconds`")
        if self.fault is Fault.CERTIFICATE and self.certificate is Certificate.GOOD:
            raise BuilderError("The behaviour `certificate` needs a `certificate` other than `good`")
        if self.fault in _FIXED_STAGE and self.stage not in (None, _STAGES[self.fault]):
            raise BuilderError(f"The behaviour `{self.fault}` acts only at `{_STAGES[self.fault]}`")
        if self.acts_at is Stage.BODY and self.answer and not self.answer.startswith("421"):
            raise BuilderError(f"The behaviour `{self.fault}` needs a reply of 421 at `body`")

    @property
    def acts_at(self) -> Stage | None:
        """The stage at which it acts; None means every one."""
        if self.stage is not None:
            return self.stage
        if self.fault in _REPLIES:
            return _REPLIES[self.fault][0]
        return _STAGES.get(self.fault)

    @property
    def answer(self) -> str:
        """The reply that a client gets, or nothing when it answers nothing itself."""
        if self.reply:
            return self.reply
        return _REPLIES[self.fault][1] if self.fault in _REPLIES else ""

    @property
    def delay_seconds(self) -> float:
        """How long it waits before the stage goes on."""
        if self.fault is Fault.STALL:
            return self.seconds or _AN_HOUR
        return self.seconds if self.fault is Fault.SLOW else 0.0

    def concerns(self, stage: Stage, subject: str) -> bool:
        """Say whether it acts at this stage on this user, sender or recipient."""
        return self.acts_at in (None, stage) and fnmatchcase(subject.lower(), self.match.lower())

    def to_json(self) -> dict[str, Any]:
        """Return the details that differ from the defaults, ready for JSON."""
        defaults = {item.name: item.default for item in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}


def behaviour_from_json(raw: Mapping[str, Any]) -> Behaviour:
    """Read a behaviour as `to_json` writes it. Errors: BuilderError that names the wrong key or value."""
    known = [item.name for item in fields(Behaviour)]
    unknown = sorted(set(raw) - set(known))
    if unknown:
        raise BuilderError(f"A behaviour has no key `{unknown[0]}`", hint=f"Known keys: {', '.join(known)}")
    if "fault" not in raw:
        raise BuilderError("A behaviour needs a `fault`", hint=f"One of: {', '.join(Fault)}")
    values: dict[str, Any] = dict(raw)
    for key, kind in (("fault", Fault), ("stage", Stage), ("certificate", Certificate)):
        if key in values:
            values[key] = _member(key, kind, values[key])
    for key in ("limit", "seconds"):
        if key in values and not isinstance(values[key], int | float):
            raise BuilderError(f"`{key}` of a behaviour is `{values[key]}`; a number is expected")
    for key in ("match", "reply"):
        if key in values and not isinstance(values[key], str):
            raise BuilderError(f"`{key}` of a behaviour is `{values[key]}`; a text is expected")
    return Behaviour(**values)


def _member(key: str, kind: type[StrEnum], value: object) -> StrEnum:
    try:
        return kind(str(value))
    except ValueError:
        raise BuilderError(
            f"`{key}` of a behaviour is `{value}`", hint=f"One of: {', '.join(kind)}"
        ) from None

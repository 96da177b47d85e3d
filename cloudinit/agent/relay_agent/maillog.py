"""Read Postfix's log lines: what was accepted, what became of each delivery, and why.

The formats are those of Postfix 3.4 to 3.10; examples of each with what is read from them are in
tests/agent/data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Union

_QUEUE_ID = r"[0-9A-Za-z]{6,25}"
# 4bXyZ1: to=<a@b>, orig_to=<c>, relay=h[1.2.3.4]:587, conn_use=2, delay=…, delays=…, dsn=…, status=sent (…)
_DELIVERY = re.compile(
    rf"(?P<id>{_QUEUE_ID}): to=<(?P<to>.*?)>, (?:orig_to=<.*?>, )?relay=(?P<relay>[^,]+), "
    r"(?:conn_use=(?P<use>\d+), )?delay=(?P<delay>[\d.]+), delays=[\d./]+, "
    r"dsn=(?P<dsn>\d\.\d+\.\d+), status=(?P<status>\w+)(?: \((?P<text>.*)\))?"
)
_ARRIVED = re.compile(rf"({_QUEUE_ID}): (?:resent-)?message-id=")
_EXPIRED = re.compile(rf"({_QUEUE_ID}): from=<.*?>, status=(?:force-)?expired, returned to sender")
_QUEUED = re.compile(rf"({_QUEUE_ID}): from=<(.*?)>, size=(\d+), nrcpt=(\d+) \(queue active\)")
_REMOVED = re.compile(rf"({_QUEUE_ID}): removed$")
_REJECT = re.compile(rf"(?:NOQUEUE|{_QUEUE_ID}): reject: (\w[\w-]*) from \S+: (\d{{3}})[ -](.*)")
_DISCARD = re.compile(rf"(?:NOQUEUE|{_QUEUE_ID}): discard: \w[\w-]* from \S+: (.*)")
_TLS = re.compile(r"(Verified|Trusted|Untrusted|Anonymous) TLS connection (established|reused) to (\S+?)\[")
_AUTH = re.compile(rf"(?:{_QUEUE_ID}: )?SASL authentication failed; server (\S+?)\[\S+ said: (.*)")
_NOTICE = re.compile(rf"({_QUEUE_ID}): (sender|postmaster) non-delivery notification: ({_QUEUE_ID})")
_SEVERITY = re.compile(r"(?:\w+: )?(warning|error|fatal|panic): (.*)")
_REPLY = re.compile(r"(?:said|refused to talk to me|while talking to \S+): (\d{3})[ -](?:(\d\.\d+\.\d+) )?")
# It begins only where a word begins: long lines then take no longer than they are long.
_ADDRESS = re.compile(r"(?<![^\s<>@,;:()])[^\s<>@,;:()]+@(?=[\w.-]+)")
# Postfix itself cuts its lines at 2,000 characters or so.
_LONGEST = 4096

# The first that matches names the reason; the text is what Postfix puts in brackets after `status=`.
_REASONS = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("credential", r"no-credentials|sasl_password_maps|local data error while talking"),
        # The login itself (AUTH) names its stage; what follows was said to another command.
        ("auth-temporary", r"SASL authentication failed; .* said: 4\d\d"),
        ("auth", r"SASL authentication fail|no worthy mechs|no mechanism available"),
        # The account's quota, then that of a recipient's mailbox (X.2.2, RFC 3463).
        ("quota", r"\b[45]\.4\.5\b|daily (user )?(sending|message) |maximum credits"),
        ("recipient", r"\b[45]\.2\.2\b|mailbox[^()]* (full|quota)|over (its )?quota[^()]*\(in reply to RCPT"),
        ("quota", r"quota"),
        # SPF, DKIM and DMARC are about the message: X.7.20 to X.7.29 (RFC 7372), Outlook's 5.7.509 and 515.
        ("policy", r"\b[45]\.7\.(2\d|509|515)\b|\b(SPF|DKIM|DMARC)\b"),
        ("auth", r"said: 530[ -]"),
        ("policy", r"authenticat[^()]*\(in reply to (end of )?DATA"),
        ("auth", r"said: (53[0-5]|430)[ -]|\b5\.7\.(8|57)\b"),
        ("auth", r"authentication (is )?required|authentication credentials"),
        ("tls", r"certificate|TLS is required|cannot start TLS|TLS engine|TLS handshake|TLS lib|without TLS"),
        ("dns", r"host or domain name not found|name service error|unable to look up|no MX|malformed DNS"),
        ("connect", r"connection (timed out|refused|reset)|no route|network is unreachable|connect to \S+: "),
        ("throttled", r"throttl|: 4(21|54)[ -]|: 45[04][ -]4\.2\.1|too many"),
        ("throttled", r"\brate\b|limit exceeded|try again"),
        ("connect", r"lost connection|timed out while|conversation with"),
        ("size", r": 552[ -]|\b[45]\.3\.4\b|too (long|large|big)|size limit"),
        ("sender", r"not verified|sender (address|identity)|from address|\b5\.1\.[78]\b"),
        ("recipient", r"\b5\.1\.[1-36]\b|user unknown|no such user|mailbox (unavailable|not found)"),
        ("policy", r"\b[45]\.7\.\d+\b|spam|blocked|denied"),
        ("loop", r"mail for \S+ loops back|too many hops"),
    )
)  # fmt: skip


@dataclass(frozen=True)
class Delivery:
    """One try for one recipient; `code` is the provider's reply code or 0, `delay` is in seconds.

    `status` is Postfix's word, but not where `sent` does not mean that the provider has it: `discarded` by an
    access rule, or `kept` as a report of non-delivery in the relay's spool.
    """

    queue_id: str
    to: str
    relay: str
    status: str
    dsn: str
    code: int
    reason: str
    text: str
    delay: float
    reused: bool

    @property
    def reply_class(self) -> str:
        """`2xx`, `4xx`, `5xx`, or `none` when no provider answered."""
        return f"{self.code // 100}xx" if self.code else "none"


@dataclass(frozen=True)
class Arrived:
    """A message has come in up to its header, once; what is refused after that is never `Queued`."""

    queue_id: str


@dataclass(frozen=True)
class Queued:
    """The queue manager has taken a message; it says so again at each later try."""

    queue_id: str
    sender: str
    size: int
    recipients: int


@dataclass(frozen=True)
class Removed:
    """A message has left the queue: each recipient was delivered or bounced."""

    queue_id: str


@dataclass(frozen=True)
class Expired:
    """A message was given up after `maximal_queue_lifetime`."""

    queue_id: str


@dataclass(frozen=True)
class Rejected:
    """A client was refused at `stage` with a reply code."""

    stage: str
    code: int
    text: str


@dataclass(frozen=True)
class Discarded:
    """A recipient was taken from a client, and mail goes nowhere: an access rule about the sender says so."""

    text: str


@dataclass(frozen=True)
class TlsSession:
    """The SMTP client has a TLS connection: a new one, or one that was kept open."""

    host: str
    trust: str
    reused: bool


@dataclass(frozen=True)
class AuthFailure:
    """A login failed and another host was tried, so there is no delivery line for it."""

    host: str
    text: str


@dataclass(frozen=True)
class Notice:
    """A non-delivery notification `notice_id` was made about `queue_id`."""

    queue_id: str
    notice_id: str


@dataclass(frozen=True)
class Problem:
    """A line with a severity: `warning`, `error`, `fatal` or `panic`."""

    program: str
    severity: str
    text: str


Event = Union[
    Delivery, Arrived, Queued, Removed, Expired, Rejected, Discarded, TlsSession, AuthFailure, Notice, Problem
]
# Programs with one kind of line that counts.
_OF_ONE_KIND: dict[str, tuple[re.Pattern[str], Callable[[re.Match[str]], Event]]] = {
    "cleanup": (_ARRIVED, lambda match: Arrived(match.group(1))),
    "bounce": (_NOTICE, lambda match: Notice(match.group(1), match.group(3))),
    "postsuper": (_REMOVED, lambda match: Removed(match.group(1))),
}
# What `sent` means where the next hop is not the provider, by the delivery agent.
_NOT_SENT = {"discard": "discarded", "pipe": "kept"}


def parse(program: str, message: str) -> Event | None:
    """Read one line of a Postfix program (`postfix/smtp`); None if it is about nothing we count."""
    name, message = program.rpartition("/")[2], message[:_LONGEST]
    if name in ("smtp", "error", "discard", "relay", "lmtp", "pipe"):
        return _client(name, message)
    if name == "qmgr":
        return _queue_manager(name, message)
    if name.endswith("smtpd"):
        return _server(name, message)
    if name in _OF_ONE_KIND:
        pattern, event = _OF_ONE_KIND[name]
        match = pattern.match(message)
        if match:
            return event(match)
    return _problem(name, message)


def _server(name: str, message: str) -> Event | None:
    match = _REJECT.match(message)
    if match:
        return Rejected(match.group(1), int(match.group(2)), match.group(3))
    match = _DISCARD.match(message)
    if match:
        return Discarded(match.group(1))
    return _problem(name, message)


def _client(name: str, message: str) -> Event | None:
    match = _DELIVERY.match(message)
    if match:
        return _delivery(name, match)
    match = _TLS.match(message)
    if match:
        return TlsSession(match.group(3), match.group(1).lower(), match.group(2) == "reused")
    match = _AUTH.match(message)
    if match:
        return AuthFailure(match.group(1), match.group(2))
    return _problem(name, message)


def _queue_manager(name: str, message: str) -> Event | None:
    match = _QUEUED.match(message)
    if match:
        return Queued(match.group(1), match.group(2), int(match.group(3)), int(match.group(4)))
    match = _REMOVED.match(message)
    if match:
        return Removed(match.group(1))
    match = _EXPIRED.match(message)
    if match:
        return Expired(match.group(1))
    return _problem(name, message)


def _problem(name: str, message: str) -> Problem | None:
    match = _SEVERITY.match(message)
    if match and name == "tlsproxy" and match.group(2).startswith("TLS server role is disabled"):
        # Said at each start of tlsproxy, which here is only a client.
        return None
    return Problem(name, match.group(1), match.group(2)) if match else None


def _delivery(name: str, match: re.Match[str]) -> Delivery:
    text = match.group("text") or ""
    status = match.group("status")
    if status == "sent":
        status = _NOT_SENT.get(name, status)
    return Delivery(
        queue_id=match.group("id"),
        to=match.group("to"),
        relay=match.group("relay").partition("[")[0],
        status=status,
        dsn=match.group("dsn"),
        code=_code(status, text),
        reason=_reason(status, text),
        text=text,
        delay=float(match.group("delay")),
        reused=int(match.group("use") or 1) > 1,
    )


def _reason(status: str, text: str) -> str:
    if status in ("sent", *_NOT_SENT.values()):
        return "delivered" if status == "sent" else status
    return reason_of(text)


def _code(status: str, text: str) -> int:
    found = re.match(r"(\d{3})[ -]", text) if status == "sent" else _REPLY.search(text)
    return int(found.group(1)) if found else 0


def reason_of(text: str) -> str:
    """Name the reason of a deferral or bounce in one word; `temporary`, `rejected` or `other` at last."""
    for name, pattern in _REASONS:
        if pattern.search(text):
            return name
    match = _REPLY.search(text)
    if match is None:
        return "other"
    return "rejected" if match.group(1).startswith("5") else "temporary"


def without_addresses(text: str) -> str:
    """Take the local part out of mail addresses: what is shown to others names no person."""
    return _ADDRESS.sub("…@", text)

"""Which behaviours act now: those set in general, and those set for the next sessions or messages."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import RLock

from builder.errors import BuilderError
from builder.standin.behaviour import Behaviour, Certificate, Fault, Stage

_BEFORE_MAIL = (Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.STARTTLS, Stage.AUTH)


@dataclass
class Situation:
    """Where one session is: what the conditions of a behaviour are checked against."""

    for_session: tuple[Behaviour, ...] = ()
    for_message: tuple[Behaviour, ...] = ()
    sender: str = ""
    recipients: list[str] = field(default_factory=list)
    messages: int = 0
    size: int = 0
    open_sessions: int = 0


@dataclass(frozen=True)
class Outcome:
    """What is to happen at a stage: first the delay, then the verdict, if there is one."""

    delay_seconds: float
    verdict: Behaviour | None


class Script:
    """The behaviours of one provider; every method may be called from any thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = RLock()
        self._clock = clock
        self._general: tuple[Behaviour, ...] = ()
        self._sessions: deque[tuple[Behaviour, ...]] = deque()
        self._messages: deque[tuple[Behaviour, ...]] = deque()
        self._sent: deque[float] = deque()
        self._greylist: dict[tuple[str, str], float] = {}

    @property
    def general(self) -> tuple[Behaviour, ...]:
        """The behaviours that are set in general."""
        return self._general

    def set_general(self, behaviours: Iterable[Behaviour]) -> None:
        """Replace the behaviours that are set in general."""
        with self._lock:
            self._general = tuple(behaviours)
            self._sent.clear()
            self._greylist.clear()

    def add_for_sessions(self, count: int, behaviours: tuple[Behaviour, ...]) -> None:
        """Give these behaviours to each of the next `count` connections."""
        if any(item.fault is Fault.REFUSE for item in behaviours):
            raise BuilderError("`refuse` cannot be set for sessions: what is refused is no session")
        with self._lock:
            self._sessions.extend([behaviours] * count)

    def add_for_messages(self, count: int, behaviours: tuple[Behaviour, ...]) -> None:
        """Give these behaviours to each of the next `count` messages, counted by their MAIL."""
        for item in behaviours:
            if item.acts_at in _BEFORE_MAIL:
                raise BuilderError(
                    f"`{item.fault}` cannot be set for messages: it acts at `{item.acts_at}`",
                    hint="Set it for sessions",
                )
        with self._lock:
            self._messages.extend([behaviours] * count)

    def clear(self) -> None:
        """Behave well again, from now on and for all sessions to come."""
        with self._lock:
            self.set_general(())
            self._sessions.clear()
            self._messages.clear()

    def take_for_session(self) -> tuple[Behaviour, ...]:
        """Hand out what the session that connects now was given."""
        with self._lock:
            return self._sessions.popleft() if self._sessions else ()

    def take_for_message(self) -> tuple[Behaviour, ...]:
        """Hand out what the message that begins now was given."""
        with self._lock:
            return self._messages.popleft() if self._messages else ()

    def has(self, fault: Fault, situation: Situation) -> bool:
        """Say whether this fault is set, for one that needs no condition."""
        return any(item.fault is fault for item in self._acting(situation))

    def certificate(self, situation: Situation) -> Certificate:
        """Return the certificate to show."""
        shown = [item for item in self._acting(situation) if item.fault is Fault.CERTIFICATE]
        return shown[0].certificate if shown else Certificate.GOOD

    def at(self, stage: Stage, subject: str, situation: Situation) -> Outcome:
        """Decide what happens at this stage; `subject` is its user, sender or recipient."""
        with self._lock:
            concerned = [item for item in self._acting(situation) if item.concerns(stage, subject)]
            delay = sum(item.delay_seconds for item in concerned)
            for item in concerned:
                condition = _CONDITIONS.get(item.fault, _always)
                if _has_verdict(item) and condition(self, item, subject, situation):
                    return Outcome(delay, item)
            return Outcome(delay, None)

    def _acting(self, situation: Situation) -> tuple[Behaviour, ...]:
        return (*situation.for_message, *situation.for_session, *self._general)

    def _is_over_rate(self, item: Behaviour, _subject: str, _situation: Situation) -> bool:
        window = item.seconds or 1.0
        now = self._clock()
        while self._sent and self._sent[0] <= now - window:
            self._sent.popleft()
        if len(self._sent) >= item.limit:
            return True
        self._sent.append(now)
        return False

    def _is_greylisted(self, item: Behaviour, subject: str, situation: Situation) -> bool:
        key, now = (situation.sender, subject.lower()), self._clock()
        if key not in self._greylist:
            self._greylist[key] = now
            return True
        return now < self._greylist[key] + item.seconds


def _has_verdict(item: Behaviour) -> bool:
    return bool(item.answer) or item.fault in (Fault.DROP, Fault.LOST_REPLY)


def _always(_script: Script, _item: Behaviour, _subject: str, _situation: Situation) -> bool:
    return True


_Condition = Callable[[Script, Behaviour, str, Situation], bool]
_CONDITIONS: Mapping[Fault, _Condition] = {
    Fault.GREETING_421: lambda _s, item, _who, now: not item.limit or now.open_sessions > item.limit,
    Fault.SESSION_CUT: lambda _s, item, _who, now: now.messages >= item.limit,
    Fault.TOO_MANY_RECIPIENTS: lambda _s, item, _who, now: len(now.recipients) >= item.limit,
    Fault.TOO_BIG: lambda _s, item, _who, now: now.size > item.limit,
    Fault.RATE: Script._is_over_rate,
    Fault.GREYLISTED: Script._is_greylisted,
}

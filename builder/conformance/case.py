"""What a case is: a fault, what is sent into it, and what must be seen on each side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from builder.standin.behaviour import Behaviour

if TYPE_CHECKING:
    from builder.conformance.scene import Scene


class MapState(StrEnum):
    """What the password map holds while the fault lasts."""

    GOOD = "good"
    MISSING = "missing"
    EMPTY = "empty"
    OTHER_HOST = "other_host"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105  the name of a state


@dataclass(frozen=True)
class Expect:
    """What must be seen while the fault lasts; None where it does not matter.

    Numbers count recipients. `client` begins the reply to every message. `offered` counts the MAIL commands
    that the provider got, `auths` its AUTH commands, `sessions` its connections. `reason` is in what Postfix
    says about each message that waits.
    """

    client: str = "250"
    delivered: int | None = None
    queued: int | None = None
    bounced: int = 0
    offered: int | None = None
    auths: int | None = None
    sessions: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Case:
    """One case. It passes when `expect` holds, and after the repair nothing accepted is missing.

    The provider behaves as `behaviours` say, or the next `for_sessions`/`for_messages` do. `setup` names the
    relay it needs (`builder.conformance.setups`), `needs` the abilities (`Relay.abilities`). `act` replaces
    sending `mails` messages of `recipients` recipients each, and says what it finds wrong with `scene.check`.
    """

    name: str
    title: str
    behaviours: tuple[Behaviour, ...] = ()
    for_sessions: tuple[int, Behaviour] | None = None
    for_messages: tuple[int, Behaviour] | None = None
    credentials: MapState = MapState.GOOD
    parameters: Mapping[str, str] = field(default_factory=dict)
    mails: int = 1
    recipients: int = 1
    expect: Expect = Expect()
    act: Callable[[Scene], None] | None = None
    setup: str = "plain"
    needs: frozenset[str] = frozenset()
    duplicates: int = 0
    """How many copies too many are allowed: SMTP itself cannot rule them out."""
    flush: bool = True
    """Whether the repair ends with a flush; without it the relay must come back by itself."""
    repair_seconds: float = 20

    @property
    def all_needs(self) -> frozenset[str]:
        """The abilities that it needs, the one to change parameters included."""
        return self.needs | ({"settings"} if self.parameters else frozenset())


def case_names(cases: Sequence[Case]) -> list[str]:
    """List the names; they are unique over the whole suite."""
    return [case.name for case in cases]


def behaving(fault: Any, **details: Any) -> tuple[Behaviour, ...]:
    """Return one behaviour as `Case.behaviours` wants it."""
    return (Behaviour(fault, **details),)

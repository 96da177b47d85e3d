"""Ask something again and again: each relay at moments of its own, and rarely while there is no answer."""

from __future__ import annotations

import random
import time
from typing import Callable, Optional

from relay_agent import loops
from relay_agent.backoff import Backoff
from relay_agent.trouble import Trouble

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 300.0
# Relays that started together ask apart after the first time.
_LEAST, _MOST = 0.8, 1.2


class Poll:
    """Calls `ask` about every `seconds`, and after a failure with back-off; `trouble` is the last failure.

    Whatever it raises is tried again. `loop` is the name that errors are counted under which nobody expected.
    """

    def __init__(
        self,
        ask: Callable[[], object],
        *,
        seconds: float,
        loop: str,
        monotonic: Callable[[], float] = time.monotonic,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._ask, self._seconds, self._loop = ask, seconds, loop
        self._monotonic, self._spread = monotonic, spread
        self._backoff = Backoff(
            base_seconds=_FIRST_PAUSE_SECONDS, cap_seconds=_LONGEST_PAUSE_SECONDS, spread=spread
        )
        self._due = 0.0
        self.trouble: Optional[Trouble] = None

    def check(self, *, at_once: bool = False) -> None:
        """Ask if it is time, or `at_once`."""
        if not at_once and self._monotonic() < self._due:
            return
        try:
            self._ask()
        except Trouble as trouble:
            self.trouble = trouble
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            self.trouble = loops.failed(self._loop, error)
        else:
            self.trouble = None
            self._backoff.reset()
        self._due = self._monotonic() + self._next_seconds()

    def _next_seconds(self) -> float:
        if self.trouble is not None:
            return self._backoff.next_seconds()
        return self._seconds * self._spread(_LEAST, _MOST)

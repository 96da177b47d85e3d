"""How long to wait before the next try: exponential, capped, with full jitter."""

from __future__ import annotations

import random
from typing import Callable


class Backoff:
    """Grows with each failure; a fleet that boots at once does not ask the same service at once.

    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(
        self,
        *,
        base_seconds: float = 1.0,
        cap_seconds: float = 30.0,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._base, self._cap = base_seconds, cap_seconds
        # Spreads load, keeps no secret.
        self._spread = spread
        self.failures = 0

    def next_seconds(self) -> float:
        """Count one more failure and return how many seconds to wait, never less than a tenth."""
        limit = min(self._cap, self._base * 2 ** min(self.failures, 16))
        self.failures += 1
        return max(0.1, self._spread(0, limit))

    def reset(self) -> None:
        """Start again from the shortest wait."""
        self.failures = 0

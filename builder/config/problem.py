"""One mistake in `relay.yaml` that is not in the form of one value."""

from __future__ import annotations

from typing import NamedTuple

Where = tuple[str | int, ...]


class Problem(NamedTuple):
    """One mistake: where, what (said after the key), and the next edit."""

    where: Where
    text: str
    hint: str | None = None

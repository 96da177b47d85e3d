"""The one error of the agent: a code for machines, a sentence for people, and what mends it."""

from __future__ import annotations

from typing import Any


class Trouble(Exception):
    """Something that could not be done now; `code` is from the table in docs/relayctl.md.

    The message names the file, secret, host or setting, what was found and what was expected; never a value.
    `lasting` says that waiting alone will not mend it.
    """

    def __init__(self, code: str, message: str, *, hint: str | None = None, lasting: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.lasting = lasting

    def as_json(self) -> dict[str, Any]:
        """Return what `status.json` and `/readyz` show of it."""
        return {"code": self.code, "message": self.message, "hint": self.hint}

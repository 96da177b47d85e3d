"""The one error of the agent: a code for machines, a sentence for people, and what mends it."""

from __future__ import annotations

import traceback
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


def wrong_secret(secret: str, expected: str) -> Trouble:
    """Describe a secret, other than the provider's, that has not what the image needs; never its value."""
    return Trouble(
        "secret-shape",
        f"Secret `{secret}` does not have {expected}",
        hint=f"Store it again, in the folder of relay.yaml: `builder secret put {secret}`",
        lasting=True,
    )


def wrong_plan(key: str, what: str) -> Trouble:
    """Describe a part of agent.json that the agent cannot follow."""
    return Trouble("config-invalid", f"`{key}` in agent.json is wrong: {what}", lasting=True)


def unexpected(where: str, error: BaseException) -> Trouble:
    """Describe an error that nobody expected: its type and place.

    Not its text, which may repeat a value; only the system's own words for its own errors.
    """
    frames = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-4:]]
    said = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    return Trouble(
        "internal-error",
        f"`{where}` failed: {type(error).__name__}{said} in {' > '.join(frames)}",
        hint="It is tried again; if it stays, `systemctl restart relay-agent`, and report it",
    )

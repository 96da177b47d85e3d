"""The errors that a user can cause, each with what to do next.

    BuilderError            something that could not be done; message and hint, exit code 1
    ├── ConfigError         relay.yaml, a preset or a flag is wrong; lists every mistake at once
    ├── ToolError           a program is missing, too old, or hangs
    ├── VerifyError         an image was made, but is not as good as promised
    └── CommandError        a program ran and failed; keeps its command, exit code and last lines

Anything else that reaches `cli.main` is a bug and may crash.
"""

from __future__ import annotations

from collections.abc import Sequence


class BuilderError(Exception):
    """Say what could not be done, and in `hint` the next command or edit.

    Wording: the exact file, key or command in backticks, what was found and what was expected; no
    full stop after a single sentence; never a secret.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(BuilderError):
    """Report every mistake of one file or preset at once; `problems` has one sentence each."""

    def __init__(self, source: str, problems: Sequence[str], *, hint: str | None = None) -> None:
        self.source = source
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            message = f"{source}: {self.problems[0]}"
        else:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            message = f"{source}: {len(self.problems)} mistakes\n{lines}"
        super().__init__(message, hint=hint)


class ToolError(BuilderError):
    """A program that is needed is missing, too old or does not answer."""


class VerifyError(BuilderError):
    """An image was made but did not pass `verify`; the message has the checks and what they saw."""


class CommandError(BuilderError):
    """A program failed; `returncode` is negative when a signal ended it."""

    def __init__(
        self, message: str, *, argv: Sequence[str], returncode: int, output: str, hint: str | None
    ) -> None:
        super().__init__(message, hint=hint)
        self.argv = tuple(argv)
        self.returncode = returncode
        self.output = output

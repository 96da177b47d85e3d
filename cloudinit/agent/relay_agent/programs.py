"""The one place of the agent that starts programs: no shell, clean environment, bounded."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import Sequence

from relay_agent.trouble import Trouble

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Ended:
    """A program that has ended; both outputs are decoded text."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """The last line it wrote, which is where programs put the reason."""
        lines = (self.stdout + "\n" + self.stderr).strip().splitlines()
        return lines[-1] if lines else "(no output)"


def environment() -> dict[str, str]:
    """Build a program's environment from nothing."""
    return {"PATH": os.environ.get("PATH") or _PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


def run(argv: Sequence[str], *, stdin: str | None = None, timeout_seconds: float = 30) -> Ended:
    """Run a program to its end; a failure is in `returncode`.

    Errors: Trouble `program-missing`, `program-failed`, `program-slow`.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=environment(),
            timeout=timeout_seconds,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise _not_started(argv[0], error) from None
    except subprocess.TimeoutExpired:
        raise Trouble(
            "program-slow", f"`{' '.join(argv)}` did not end within {timeout_seconds:.0f} s"
        ) from None
    return Ended(done.returncode, done.stdout, done.stderr)


def start(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a program whose output is read while it runs. Errors: Trouble `program-missing`, `-failed`."""
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
    except OSError as error:
        raise _not_started(argv[0], error) from None


def run_quietly(argv: Sequence[str], *, timeout_seconds: float = 60) -> int:
    """Run a program without reading what it prints, and return its exit code.

    For programs that leave a child behind which keeps their output open. Errors: as `run`.
    """
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            timeout=timeout_seconds,
            check=False,
        )
    except OSError as error:
        raise _not_started(argv[0], error) from None
    except subprocess.TimeoutExpired:
        raise Trouble(
            "program-slow", f"`{' '.join(argv)}` did not end within {timeout_seconds:.0f} s"
        ) from None
    return done.returncode


def _not_started(program: str, error: OSError) -> Trouble:
    if isinstance(error, FileNotFoundError):
        return Trouble("program-missing", f"`{program}` is not installed", lasting=True)
    # Too many processes, no memory, a file system that went away.
    return Trouble("program-failed", f"`{program}` cannot be started: {error.strerror}")

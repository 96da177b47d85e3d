"""The one place that starts programs: clean environment, no shell, own process groups, bounded waits."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from builder.errors import CommandError, ToolError

# What a program may see of our environment: how to find programs, a place for temporary files, and the
# network settings of a machine behind a proxy or with its own certificate authority. Credentials are not
# among them: a caller that must hand them on (Packer on EC2) names them in `env`.
_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|TERM|XDG_[A-Z_]+|SSL_CERT_(FILE|DIR)|(?i:(https?|no|all|ftp)_proxy)"
)
_LAST_LINES = 15
# What a program gets to tidy up (temporary files, locks) when its time is up, or the user's patience.
_GRACE_SECONDS = 2


@dataclass(frozen=True)
class Finished:
    """A program that has ended: both outputs are decoded text."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build a program's environment from nothing, with `LANG=C.UTF-8` so that its messages can be read."""
    kept = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    # Administration tools (losetup, mkfs, postfix) are outside a normal user's PATH on Debian.
    kept["PATH"] = kept.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return {**kept, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **(extra or {})}


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float = 60,
    hint: str | None = None,
) -> Finished:
    """Run a program to its end and return both outputs.

    Errors: CommandError when it fails and `check` is set, or when it takes longer than
    `timeout_seconds`; ToolError when there is no such program.
    """
    words = [str(word) for word in argv]
    try:
        started = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment(env),
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(words[0], error, hint) from error
    try:
        with started, _ended_with_its_children(started):
            stdout, stderr = started.communicate(stdin, timeout_seconds)
    except subprocess.TimeoutExpired as error:
        output = _text(error.stdout) + _text(error.stderr)
        raise CommandError(
            f"`{shlex.join(words)}` did not end within {timeout_seconds:.0f} s",
            argv=words,
            returncode=-signal.SIGKILL,
            output=output,
            hint=hint,
        ) from error
    finished = Finished(tuple(words), started.returncode, stdout, stderr)
    if check and finished.returncode != 0:
        raise failure(finished, hint=hint)
    return finished


def failure(finished: Finished, *, hint: str | None = None) -> CommandError:
    """Describe a failed program: the command ready to paste, how it ended, and its last lines."""
    output = (finished.stdout.rstrip() + "\n" + finished.stderr.rstrip()).strip()
    tail = "\n".join(f"    {line}" for line in output.splitlines()[-_LAST_LINES:])
    message = f"`{shlex.join(finished.argv)}` {describe_exit(finished.returncode)}"
    if tail:
        message += f"; its last lines:\n{tail}"
    return CommandError(
        message,
        argv=finished.argv,
        returncode=finished.returncode,
        output=output,
        hint=hint,
    )


def describe_exit(returncode: int) -> str:
    """Say how a program ended: `failed with exit code 2`, `was ended by SIGTERM`."""
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"failed with exit code {returncode}"


class Running:
    """A program in its own process group, for as long as the `with` block lasts.

    Packer swallows a signal that is sent to it alone, and its children survive it; so every signal goes
    to the group (facts: Packer re-executes itself under panicwrap).
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path | IO[bytes],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        hint: str | None = None,
        when_we_die: signal.Signals | None = None,
    ) -> None:
        """Start it; `when_we_die` is what it gets when this process ends, even by SIGKILL."""
        words = [str(word) for word in argv]
        tie = [] if when_we_die is None else _tie_to_us(words[0], when_we_die)
        self.argv = (*tie, *words)
        stream = log.open("ab") if isinstance(log, Path) else log
        try:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=environment(env),
                start_new_session=True,
            )
        except OSError as error:
            raise _not_started(self.argv[0], error, hint) from error
        finally:
            if isinstance(log, Path):
                stream.close()

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_seconds: float) -> int | None:
        """Wait up to `timeout_seconds`; None when it still runs after that."""
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self, *, grace_seconds: float = 10) -> int:
        """End the whole group: SIGTERM, then after `grace_seconds` SIGKILL; return the exit code."""
        if self._process.poll() is None:
            _signal_group(self.pid, signal.SIGTERM)
            if self.wait(grace_seconds) is None:
                _signal_group(self.pid, signal.SIGKILL)
        code = self._process.wait()
        _signal_group(self.pid, signal.SIGKILL)  # grandchildren that outlived their parent
        return code

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()


def find_tool(name: str, *, to: str, install: str, also: Iterable[str] = ()) -> Path:
    """Find a program on PATH; `also` are other names that do the same job.

    `to` ends the sentence "… is needed to", `install` is the command that installs it on Debian and Ubuntu.
    """
    path = environment()["PATH"]
    for candidate in (name, *also):
        found = shutil.which(candidate, path=path)
        if found:
            return Path(found)
    raise ToolError(f"`{name}` is not installed; it is needed to {to}", hint=f"Run `{install}`")


def tool_version(
    tool: Path, arguments: Sequence[str], *, pattern: str = r"(\d+(?:\.\d+)+)", timeout_seconds: float = 10
) -> str:
    """Ask a program for its version; the first group of `pattern` is it.

    Bounded, because some programs of the same name never answer (cracklib's `packer` waits on stdin).
    """
    try:
        finished = run([tool, *arguments], check=False, timeout_seconds=timeout_seconds)
    except CommandError as error:
        raise ToolError(
            f"`{shlex.join([str(tool), *arguments])}` did not answer within {timeout_seconds:.0f} s",
            hint="Another program of that name may come first on PATH; see `builder doctor`",
        ) from error
    match = re.search(pattern, finished.stdout + finished.stderr)
    if match is None:
        raise ToolError(
            f"`{shlex.join([str(tool), *arguments])}` printed no version",
            hint="Another program of that name may come first on PATH; see `builder doctor`",
        )
    return match.group(1)


def _tie_to_us(program: str, number: signal.Signals) -> list[str]:
    """Return the words before a command that gets a signal as soon as this process is gone.

    Nothing where util-linux's setpriv is missing: then only an orderly end takes the program along; nor where
    the program is, so that its own absence is what is told.
    """
    path = environment()["PATH"]
    setpriv, found = shutil.which("setpriv", path=path), shutil.which(program, path=path)
    return [setpriv, "--pdeathsig", number.name.removeprefix("SIG")] if setpriv and found else []


def _not_started(program: str, error: OSError, hint: str | None) -> ToolError:
    """Say why nothing was started; the folder to start it in may be what is missing."""
    if isinstance(error, FileNotFoundError) and error.filename in (None, program):
        return ToolError(f"`{program}` is not installed", hint=hint or "Run `builder doctor`")
    where = "" if error.filename in (None, program) else f" in `{error.filename}`"
    return ToolError(f"`{program}` cannot be started{where}: {error.strerror}", hint=hint)


@contextmanager
def _ended_with_its_children(started: subprocess.Popen[str]) -> Iterator[None]:
    """Leave nothing running when the wait in the block ends early: Packer's `version` is two processes."""
    try:
        yield
    except BaseException:
        _signal_group(started.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            started.wait(_GRACE_SECONDS)
        _signal_group(started.pid, signal.SIGKILL)
        raise


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _text(raw: str | bytes | None) -> str:
    if raw is None:
        return ""
    return raw if isinstance(raw, str) else raw.decode(errors="replace")

"""Read Packer's output: what it is doing, how long each phase took, why it failed, and the files in it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Packer's words for why: a build that failed, and a template that it refuses.
_FAILED = re.compile(
    r"^(?:Build '[^']+' errored after [^:]*: |==> [\w.-]+: (?=Error [a-z])|(?:==> [\w.-]+: )?Error: )(.+)"
)
# What a line of Packer's output says about the phase; the first that fits. `BUILDER-PHASE` lines come from
# build.pkr.hcl, the others are Packer's own words, the same from 1.6.6 to 1.16.
_PHASES: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"BUILDER-PHASE install"), "install", "installing packages"),
    (re.compile(r"BUILDER-PHASE configure"), "configure", "configuring the relay"),
    (re.compile(r"BUILDER-PHASE seal"), "seal", "sealing the image"),
    (re.compile(r"Starting VM|Launching a source AWS instance"), "boot", "booting, waiting for SSH"),
    (re.compile(r"Connected to SSH"), "upload", "connected"),
    (re.compile(r"Gracefully halting|Stopping the source instance"), "shutdown", "shutting down"),
    (re.compile(r"Creating AMI|Waiting for AMI"), "snapshot", "waiting for the AMI"),
    (re.compile(r"Terminating the source AWS instance"), "cleanup", "deleting what the bake needed"),
)
# What a machine prints is behind the name of its build: `    qemu.relay: text`, or `==> qemu.relay: text`.
_PREFIX = re.compile(r"^(?:==>|   ) [\w.-]+: ?")
_BEGIN = re.compile(r"^BUILDER-DIAG begin ([\w.-]+)\s*$")
_END = re.compile(r"^BUILDER-DIAG end\s*$")
_PHASE = re.compile(r"^BUILDER-PHASE \w+\s*$")
# Packer's own words after a script has failed.
_AFTERWARDS = re.compile(
    r"^==> [\w.-]+: (?:Provisioning step had errors|Step \"|Terminating|Deleting)|^Build '"
)


@dataclass
class Progress:
    """Reads Packer's output as it grows, and keeps phase, seconds by phase, and what failed."""

    log: Path
    note: Callable[[str], None]
    phase: str = "prepare"
    timings: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    _offset: int = 0
    _since: float = field(default_factory=time.monotonic)

    def update(self) -> None:
        """Read what is new; a line that is not whole yet waits for the next call."""
        with self.log.open("rb") as stream:
            stream.seek(self._offset)
            new = stream.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            self._read(line)

    def finish(self) -> None:
        """Close the last phase."""
        now = time.monotonic()
        self.timings[self.phase] = round(self.timings.get(self.phase, 0.0) + now - self._since, 2)
        self._since = now

    def _read(self, line: str) -> None:
        failed = _FAILED.match(line)
        if failed:
            self.reasons.append(failed[1].strip())
            return
        for pattern, phase, text in _PHASES:
            if pattern.search(line):
                if phase != self.phase:
                    self.finish()
                    self.phase = phase
                    self.note(text)
                return


def cut_files(log: Path) -> dict[str, str]:
    """Return the files that the scripts printed between `BUILDER-DIAG` lines, name to text."""
    files: dict[str, list[str]] = {}
    for line, file in _lines(log):
        if file is not None:
            files.setdefault(file, []).append(line)
    return {name: "\n".join(lines).strip("\n") + "\n" for name, lines in files.items()}


def without_files(log: Path) -> str:
    """Return the log without the files that are in it."""
    return "".join(f"{line}\n" for line, file in _lines(log, keep_prefix=True) if file is None)


def last_script(log: Path) -> str:
    """Return what the last script printed, from its `BUILDER-PHASE` line on; empty when none ran."""
    printed: list[str] = []
    for raw, file in _lines(log, keep_prefix=True):
        line = _PREFIX.sub("", raw)
        if _PHASE.match(line):
            printed = [line.strip()]
        elif file is None and printed:
            if _AFTERWARDS.match(raw):
                break
            printed.append(line)
    return "".join(f"{line}\n" for line in printed)


def _lines(log: Path, *, keep_prefix: bool = False) -> Iterator[tuple[str, str | None]]:
    """Yield each line with the name of the file that it belongs to, if any; the marks are left out."""
    current: str | None = None
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    for raw in text.splitlines():
        line = _PREFIX.sub("", raw)
        begin = _BEGIN.match(line)
        if begin:
            current = begin[1]
        elif _END.match(line):
            current = None
        else:
            yield (raw if keep_prefix and current is None else line), current

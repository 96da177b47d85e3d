"""Explain a failed bake: gather what was seen in one folder, a one-line diagnosis first."""

from __future__ import annotations

import re
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from builder import assets, packer_output
from builder.console import format_seconds
from builder.errors import BuilderError, ConfigError, VerifyError
from builder.packer_run import BakeFailed
from builder.workspace import Workspace

_DIAGNOSIS = "DIAGNOSIS.txt"
_ERROR = "error.txt"
_UNKNOWN = "unknown"
_ABOUT = {
    _ERROR: "the error as builder saw it",
    "serial.log": "the machine's serial console",
    "packer.log": "Packer's output, with that of the scripts in the machine",
    "packer-debug.log": "Packer's own log, with QEMU's messages",
    "script.log": "what the script that failed printed",
    "install.log": "what apt said",
    "apt-term.log": "what dpkg said",
    "cloud-init-status.json": "`cloud-init status --format json`",
    "cloud-init-status.txt": "`cloud-init status --long`",
    "cloud-init-blame.txt": "`cloud-init analyze blame`: what took how long",
    "cloud-init-output.log": "what cloud-init's programs printed",
    "boot-blame.txt": "`systemd-analyze blame`: what took how long",
    "failed-units.txt": "units that failed",
    "journal-warnings.txt": "warnings of the journal",
    "disk.txt": "free space in the machine",
    "packages.tsv": "installed packages",
    "verify": "the instances that were booted to try the image, a folder each",
}
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc")
_MOST_BYTES = 4 << 20
_LONGEST = 300


@dataclass(frozen=True)
class Diagnosis:
    """What was wrong, in one line; `evidence` is `file: line`, empty when nothing known was found.

    `hint` is empty when there is nothing to read but the error itself.
    """

    name: str
    summary: str
    hint: str
    evidence: str


class Known(BaseModel):
    """One entry of packer/diagnoses.yaml, which explains the keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    files: tuple[str, ...] = Field(alias="in", min_length=1)
    pattern: re.Pattern[str]
    also: dict[str, re.Pattern[str]] = {}
    absent: dict[str, re.Pattern[str]] = {}
    summary: str
    hint: str


def read_catalogue() -> list[Known]:
    """Read packer/diagnoses.yaml, in its order."""
    text = (assets.folder("packer") / "diagnoses.yaml").read_text(encoding="utf-8")
    return TypeAdapter(list[Known]).validate_python(yaml.safe_load(text))


def diagnose(files: Mapping[str, str], *, default_hint: str | None = None) -> Diagnosis:
    """Find the first known failure in the texts of a bundle, by file name."""
    for known in read_catalogue():
        found = _match(known, files)
        if found is not None:
            return found
    said = files.get(_ERROR, "").strip().splitlines()
    return Diagnosis(
        _UNKNOWN,
        said[0] if said else "The bake failed, and nothing in its logs says why",
        default_hint or _hint(files),
        "",
    )


def _hint(files: Mapping[str, str]) -> str:
    """Say which of the logs that are there to read."""
    logs = [f"`{name}`" for name in ("packer.log", "serial.log") if name in files]
    return f"Read {logs[0]} from its end{''.join(f', then {name}' for name in logs[1:])}" if logs else ""


def collect(work: Workspace, error: BuilderError) -> Diagnosis:
    """Write `bundle/` into a workspace: logs, the files that the machine printed, and DIAGNOSIS.txt.

    Of an image that did not pass, what `verify` kept moves into it too.
    """
    folder = work.path / "bundle"
    folder.mkdir(exist_ok=True)
    for path in (work.packer_log, work.debug_log, work.serial_log):
        if path.exists():
            shutil.copyfile(path, folder / path.name)
    printed = packer_output.cut_files(work.packer_log)
    if isinstance(error, BakeFailed):
        printed["script.log"] = packer_output.last_script(work.packer_log)
    for name, text in {**printed, _ERROR: error.message + "\n"}.items():
        if text:
            (folder / name).write_text(text, encoding="utf-8")
    if isinstance(error, VerifyError):  # the bake went well: nothing in its logs is to blame
        if work.verify_logs.exists():
            work.verify_logs.rename(folder / "verify")
        diagnosis = diagnose({_ERROR: error.message}, default_hint=error.hint or _where_it_failed(folder))
    elif isinstance(error, ConfigError):  # builder's own finding: no log says more about it
        diagnosis = diagnose({_ERROR: error.message}, default_hint=error.hint)
    else:
        diagnosis = diagnose_folder(folder, default_hint=error.hint)
    names = sorted(path.name for path in folder.iterdir() if path.name != _DIAGNOSIS)
    (folder / _DIAGNOSIS).write_text(_write(diagnosis, error, names), encoding="utf-8")
    return diagnosis


def _where_it_failed(folder: Path) -> str:
    """Say where the logs of an instance that failed a check are; empty when only the disk was looked at."""
    failed = sorted(path.parent.relative_to(folder) for path in folder.glob("verify/*/postfix.log"))
    where = " and ".join(f"`{each}`" for each in failed)
    return f"Read `postfix.log`, `agent.log` and `queue.json` in {where}" if where else ""


def diagnose_folder(folder: Path, *, default_hint: str | None = None) -> Diagnosis:
    """Diagnose the files of a bundle that lie in a folder."""
    files = {path.name: _clean(path) for path in sorted(folder.iterdir()) if path.name != _DIAGNOSIS}
    if "packer.log" in files:
        files["packer.log"] = packer_output.without_files(folder / "packer.log")
    if not files.get("script.log", "").startswith("BUILDER-PHASE install"):
        # Packages were installed: a mirror that had to be asked twice is not why a later step failed.
        files.pop("install.log", None)
        files.pop("apt-term.log", None)
    return diagnose(files, default_hint=default_hint)


def keep(work: Workspace, error: BuilderError) -> BuilderError:
    """Collect the bundle, move the workspace to `.failed/`, and return the error to raise from `error`."""
    diagnosis = collect(work, error)
    folder = work.fail() / "bundle"
    phase = f" (phase `{error.phase}`)" if isinstance(error, BakeFailed) else ""
    evidence = f"\n    {diagnosis.evidence}" if diagnosis.evidence else ""
    if diagnosis.name == _UNKNOWN:  # the summary is the error's first line; a list of mistakes follows it
        evidence = "".join(f"\n{line}" for line in error.message.strip().splitlines()[1:])
    hint = f"{diagnosis.hint}\n" if diagnosis.hint else ""
    failed = "" if isinstance(error, VerifyError) else f"Image `{work.name}` was not baked{phase}: "
    return BuilderError(
        f"{failed}{diagnosis.summary}{evidence}",
        hint=f"{hint}Everything that was seen: `{folder}`; begin with `{_DIAGNOSIS}`",
    )


@contextmanager
def kept(work: Workspace) -> Iterator[None]:
    """Keep the bundle of a bake that fails in the block.

    Errors: BuilderError that explains a failure; any other exception goes on as it is, with a note of where
    the bundle lies.
    """
    try:
        yield
    except BuilderError as error:
        raise keep(work, error) from error
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        with suppress(OSError):  # what has gone wrong is more to the point
            told = keep(work, BuilderError(f"{type(error).__name__}: {error}\n\n{trace}"))
            error.add_note(told.hint or "")
        raise


def _match(known: Known, files: Mapping[str, str]) -> Diagnosis | None:
    if any(not pattern.search(files.get(name, "")) for name, pattern in known.also.items()):
        return None
    if any(pattern.search(files.get(name, "")) for name, pattern in known.absent.items()):
        return None
    for name in known.files:
        match = known.pattern.search(files[name]) if name in files else None
        if match is None:
            continue
        # `lock` and `lock2` are the same thing in two wordings.
        groups: dict[str, str] = {}
        for group, value in match.groupdict().items():
            groups[group.rstrip("2")] = groups.get(group.rstrip("2")) or (value or "").strip()[:_LONGEST]
        line = _line_of(files[name], match)
        return Diagnosis(
            known.name,
            known.summary.format_map(groups).strip(),
            known.hint.format_map(groups),
            f"{name}: {line}" if line else name,
        )
    return None


def _line_of(text: str, match: re.Match[str]) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.start())
    return text[start : end if end >= 0 else len(text)].strip()[:_LONGEST]


def _clean(path: Path) -> str:
    """Read the last 4 MB of a log as text without colour."""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _MOST_BYTES))
        return _COLOUR.sub("", stream.read().decode("utf-8", errors="replace")).replace("\r", "")


def _write(diagnosis: Diagnosis, error: BuilderError, files: list[str]) -> str:
    lines = [diagnosis.summary]
    if diagnosis.hint:
        lines += ["", f"What to do: {diagnosis.hint}"]
    if diagnosis.evidence:
        lines += ["", f"Seen in {diagnosis.evidence}"]
    lines += ["", "The error:", *(f"    {line}" for line in error.message.splitlines())]
    if isinstance(error, BakeFailed) and error.timings:
        lines += ["", "How far it came:"]
        lines += [f"    {phase:<10} {format_seconds(seconds)}" for phase, seconds in error.timings.items()]
    lines += ["", "Files:"]
    lines += [f"    {name:<24} {_ABOUT.get(name, '')}".rstrip() for name in files]
    return "\n".join(lines) + "\n"

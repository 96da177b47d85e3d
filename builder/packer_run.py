"""Run Packer for one bake: follow what it does, stop it cleanly, and read what it made."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil

from builder import console, process, workspace
from builder.errors import BuilderError
from builder.packer import Packer, Target
from builder.packer_door import Door
from builder.packer_output import Progress
from builder.packer_template import VALUES_FILE
from builder.workspace import Workspace

_POLL_SECONDS = 0.5
# How long Packer gets to end by itself, with its own reason, when QEMU has.
_LAST_WORDS_SECONDS = 2.0
_LEAST_FREE_BYTES = 64 << 20
# How long Packer gets to tidy up after SIGTERM: QEMU dies at once, EC2 takes minutes to end an instance.
_GRACE_SECONDS: Mapping[Target, float] = {"qemu": 20, "ami": 300}
# A machine that has printed one of these will never answer SSH.
_NEVER_BOOTS = (
    "No bootable device",
    "Kernel panic - not syncing",
    "Unable to mount root fs",
    "grub rescue>",
)


class BakeFailed(BuilderError):
    """Packer ended without an artifact; `reasons` are its own words, `phase` is where it was."""

    def __init__(self, message: str, *, reasons: list[str], phase: str, timings: dict[str, float]) -> None:
        super().__init__(message)
        self.reasons = reasons
        self.phase = phase
        self.timings = timings


@dataclass(frozen=True)
class Built:
    """What Packer made: files of a QEMU bake, or AMI ids by region; seconds by phase."""

    files: tuple[Path, ...]
    ami_ids: Mapping[str, str]
    timings: Mapping[str, float]


def build(
    packer: Packer,
    work: Workspace,
    *,
    target: Target,
    step: console.Step,
    env: Mapping[str, str] | None = None,
) -> Built:
    """Run the staged template of a workspace to its end.

    `env` is added to Packer's environment (AWS credentials and endpoints). Packer runs in its own process
    group; a KeyboardInterrupt stops it cleanly and leaves nothing running, and when this process is killed
    Packer gets SIGTERM, on which it tidies up as well. Errors: BakeFailed.
    """
    progress = Progress(work.packer_log, step.note)
    work.packer_log.touch()
    if target == "qemu":
        work.serial_log.touch()  # QEMU may end before it makes it, and an empty console says something
    command: list[str | Path] = [packer.path, "build", "-color=false", "."]
    with ExitStack() as stack:
        tmp = stack.enter_context(workspace.short_tmpdir(work))
        running = process.Running(
            command,
            log=work.packer_log,
            cwd=work.packer,
            env=_environment(packer, work, tmp, env),
            when_we_die=signal.SIGTERM,
        )
        stack.callback(_stop, running, _GRACE_SECONDS[target])
        stack.enter_context(_door(work))
        code = _follow(running, work, progress)
    progress.update()
    progress.finish()
    if code != 0:
        raise _failed(work, progress, process.describe_exit(code))
    return _read_manifest(work, progress, target)


def _door(work: Workspace) -> AbstractContextManager[object]:
    """Open the port that the staged template has Packer connect to; a template without one needs none."""
    path = work.packer / VALUES_FILE
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "forwarded_port" not in values:
        return nullcontext()
    return Door(values["ssh_port"], values["forwarded_port"])


def _environment(
    packer: Packer, work: Workspace, tmp: Path, extra: Mapping[str, str] | None
) -> dict[str, str]:
    return {
        **packer.environment(),
        "PACKER_CACHE_DIR": str(tmp),
        "PACKER_LOG": "1",
        "PACKER_LOG_PATH": str(work.debug_log),
        "TMPDIR": str(tmp),
        **(extra or {}),
    }


def _follow(running: process.Running, work: Workspace, progress: Progress) -> int:
    """Wait for Packer's end, or raise as soon as it is clear that it will not come to a good one."""
    had_machine = False
    while (code := running.wait(_POLL_SECONDS)) is None:
        progress.update()
        if workspace.free_bytes(work.path) < _LEAST_FREE_BYTES:
            # QEMU would pause the machine and Packer would wait for it until its timeout.
            raise workspace.disk_full(work.path)
        if progress.phase != "boot":
            continue
        has_machine = _runs_qemu(running.pid)
        if had_machine and not has_machine and running.wait(_LAST_WORDS_SECONDS) is None:
            raise _failed(work, progress, "QEMU ended before the machine answered SSH")
        had_machine = had_machine or has_machine
        sign = never_boots(work.serial_log)
        if sign:
            raise _failed(work, progress, f"the serial console says `{sign}`")
    return code


def never_boots(serial_log: Path) -> str | None:
    """Return the line of a serial console after which no boot will follow, if it is there."""
    text = serial_log.read_bytes().decode("utf-8", errors="replace") if serial_log.exists() else ""
    return next((sign for sign in _NEVER_BOOTS if sign in text), None)


def _runs_qemu(pid: int) -> bool:
    try:
        children = psutil.Process(pid).children(recursive=True)
        return any(child.name().startswith("qemu-system") for child in children)
    except psutil.Error:
        return False


def _stop(running: process.Running, grace_seconds: float) -> None:
    """Let Packer tidy up; a second Ctrl-C meanwhile ends everything at once."""
    try:
        running.stop(grace_seconds=grace_seconds)
    except KeyboardInterrupt:
        running.stop(grace_seconds=0)
        raise


def _failed(work: Workspace, progress: Progress, how: str) -> BakeFailed:
    progress.update()
    progress.finish()
    reason = f": {progress.reasons[0]}" if progress.reasons else ""
    # Packer tidies up after a failure: that is not where it was.
    phase = [name for name in progress.timings if name != "cleanup"][-1]
    return BakeFailed(
        f"Packer did not make an image (phase `{phase}`, {how}){reason}",
        reasons=progress.reasons,
        phase=phase,
        timings=dict(progress.timings),
    )


def _read_manifest(work: Workspace, progress: Progress, target: Target) -> Built:
    """Read what this run made. Packer exits with 0 also when no build matched and nothing was made."""
    if not work.manifest.exists():
        raise _failed(work, progress, "it wrote no manifest")
    try:
        manifest = json.loads(work.manifest.read_text(encoding="utf-8"))
        run = manifest["last_run_uuid"]
        made = [item for item in manifest["builds"] if item["packer_run_uuid"] == run]
        files = (
            tuple((work.packer / item["name"]).resolve() for item in made[0]["files"] or ()) if made else ()
        )
        ids = str(made[0]["artifact_id"]) if made and not files else ""
    except (ValueError, RecursionError):
        raise _failed(work, progress, f"its manifest `{work.manifest.name}` is not JSON") from None
    except (LookupError, TypeError, AttributeError) as error:
        raise _failed(
            work, progress, f"its manifest `{work.manifest.name}` is not as Packer writes it: {error!r}"
        ) from error
    if not made:
        raise _failed(work, progress, "its manifest names no artifact")
    amis = dict(pair.split(":", 1) for pair in ids.split(",") if ":" in pair)
    if not (files if target == "qemu" else amis):
        wanted = "disk image" if target == "qemu" else "AMI"
        raise _failed(work, progress, f"its manifest names no {wanted} as the artifact")
    return Built(files, amis, progress.timings)

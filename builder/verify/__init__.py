"""Boot a finished image fresh, against stand-ins for everything outside, and prove that it is a good relay.

`short` boots once: it relays, keeps its credential where it belongs, is no open relay, and was sealed.
`standard` adds a wrong certificate, a rotated password, a reboot, a power cut and a second instance without a
secret. `full` adds the conformance suite: every fault that a relay meets.
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

from builder import console, disk_image, scratch
from builder.config import RelayConfig
from builder.launch import Accelerator, Launcher, announce, choose_accelerator, launch_qemu
from builder.launch.guest import QemuGuest
from builder.record import Profile
from builder.verify.report import COLUMNS, CheckResult, VerifyReport, read_report
from builder.verify.runner import Run, check_first_boot, check_sealed, check_second_boot

__all__ = [
    "COLUMNS",
    "CheckResult",
    "VerifyReport",
    "read_report",
    "verify",
]


def verify(
    image: Path,
    *,
    config: RelayConfig,
    profile: Profile = "standard",
    logs: Path | None = None,
    accelerator: Accelerator | None = None,
    launcher: Launcher | None = None,
) -> VerifyReport:
    """Check an image and return the report; nothing is written but the logs of a failed run.

    `config` is what the image was baked from. `logs` is where the guests' logs are kept when a check fails (a
    folder for temporary files when not given); the report names it. A folder that was there before is never
    deleted. Errors: BuilderError when there is nothing to check: no image, no QEMU, no space.
    """
    image_format = disk_image.check(image, disk_image.BAKED).format
    chosen = accelerator or choose_accelerator()
    is_ours = logs is None or not logs.exists()
    folder = logs or scratch.parent() / f"builder-verify-logs-{secrets.token_hex(4)}"
    run = Run(image, config, profile, launcher or qemu_launcher(chosen), folder)
    started = time.monotonic()
    with console.step(f"Verify {image} ({profile}, {announce(chosen)})"):
        check_sealed(run, image_format)
        check_first_boot(run)
        check_second_boot(run)
    if not run.has_failed and is_ours:
        shutil.rmtree(folder, ignore_errors=True)
    return VerifyReport(
        image=str(image),
        profile=profile,
        accelerator=chosen.name,
        started=run.started,
        seconds=round(time.monotonic() - started, 1),
        checks=tuple(run.results),
        boots=run.boots,
        logs=str(folder) if run.has_failed else None,
    )


def qemu_launcher(accelerator: Accelerator) -> Launcher:
    """Return a launcher that boots under QEMU on this machine."""

    def launch(image: Path, *, user_data: str, login: bool, logs: Path | None) -> QemuGuest:
        return launch_qemu(image, user_data=user_data, login=login, logs=logs, accelerator=accelerator)

    return launch

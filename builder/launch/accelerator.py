"""Choose how QEMU runs the guest: on the processor's own virtualisation, or in software."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder import console
from builder.errors import BuilderError

AcceleratorName = Literal["kvm", "tcg"]
_MODULES = ("kvm_intel", "kvm_amd")


@dataclass(frozen=True)
class Accelerator:
    """`kvm` (the processor) or `tcg` (software emulation, minutes instead of seconds), and why."""

    name: AcceleratorName
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose_accelerator(
    requested: str | None = None,
    *,
    machine: str | None = None,
    sys_module: Path = Path("/sys/module"),
    device: Path = Path("/dev/kvm"),
) -> Accelerator:
    """Return `requested`, or `kvm` only where hardware backs it.

    `/dev/kvm` alone says nothing: paravirtual KVM (module kvm_pvm) offers it too and then hangs on a stock
    kernel. Only kvm_intel and kvm_amd drive the processor's own extensions. Errors: BuilderError for a
    name that is neither `kvm` nor `tcg`.
    """
    if requested == "kvm":
        return Accelerator("kvm", "asked for")
    if requested == "tcg":
        return Accelerator("tcg", "asked for")
    if requested is not None:
        raise BuilderError(f"`{requested}` is not an accelerator; known are `kvm` and `tcg`")
    machine = machine or platform.machine()
    if machine not in ("x86_64", "AMD64"):
        return Accelerator("tcg", f"this machine is {machine}, the image is for x86_64")
    backing = [name for name in _MODULES if (sys_module / name / "parameters").is_dir()]
    if not backing:
        there = f"`{device}` is there, but" if device.exists() else f"no `{device}`, and"
        return Accelerator("tcg", f"{there} neither kvm_intel nor kvm_amd is loaded")
    if not os.access(device, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"`{device}` cannot be opened; is your user in the group `kvm`?")
    return Accelerator("kvm", f"backed by {backing[0]}")


@functools.cache
def announce(accelerator: Accelerator) -> str:
    """Return the accelerator's name for a line of progress; the first time, say why it is that one."""
    console.say(f"Accelerator: {accelerator}")
    return accelerator.name

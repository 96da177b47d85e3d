"""QEMU's command line, and what this machine must have for it: ports and room."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from builder import process
from builder.errors import BuilderError
from builder.launch.accelerator import Accelerator

INSTALL = "sudo apt install qemu-system-x86 qemu-utils"
MIN_FREE_MIB = 1024
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Machine:
    """One virtual machine: everything that decides QEMU's command line."""

    name: str
    accelerator: Accelerator
    disk: Path
    seed: Path
    serial: Path
    qmp: Path
    forward: Mapping[int, int] = field(default_factory=dict)
    """Port in the guest → port on this machine's loopback address."""
    memory_mib: int = 1024
    cpus: int = 2
    cache: Literal["unsafe", "writeback"] = "unsafe"
    """`unsafe` skips fsync on this machine: only for a disk that is thrown away."""
    pid_file: Path | None = None
    """Given: QEMU goes to the background once the guest runs, and writes its process id here."""


def find_qemu() -> Path:
    """Return the path of qemu-system-x86_64; ToolError with the apt line when it is missing."""
    return process.find_tool("qemu-system-x86_64", to="run an image", install=INSTALL)


def command_line(qemu: Path, machine: Machine) -> list[str]:
    """Return the command that runs `machine`.

    No VGA, no defaults but the serial console: every device costs boot time under software emulation. The
    seed is a virtio disk, because kernels for the cloud may have no driver for a CD.
    """
    forwards = "".join(
        f",hostfwd=tcp:{_LOOPBACK}:{host}-:{guest}" for guest, host in sorted(machine.forward.items())
    )
    accel = "kvm" if machine.accelerator.name == "kvm" else "tcg,thread=multi"
    # fmt: off
    words = [
        str(qemu),
        "-name", f"{machine.name},process={machine.name}"[:200],
        "-machine", "pc",
        "-accel", accel,
        "-cpu", "max",
        "-smp", str(machine.cpus),
        "-m", str(machine.memory_mib),
        "-nodefaults", "-no-user-config", "-display", "none",
        "-drive", f"if=none,id=disk,format=qcow2,cache={machine.cache},discard=unmap,"
                  f"file={_value(machine.disk)}",
        "-device", "virtio-blk-pci,drive=disk,bootindex=1",
        "-drive", f"if=none,id=seed,format=raw,readonly=on,file={_value(machine.seed)}",
        "-device", "virtio-blk-pci,drive=seed",
        "-netdev", f"user,id=net,ipv6=off{forwards}",
        "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-rng-pci",
        "-chardev", f"file,id=serial,append=on,path={_value(machine.serial)}",
        "-serial", "chardev:serial",
        "-qmp", f"unix:{_value(machine.qmp)},server=on,wait=off",
    ]
    # fmt: on
    if machine.pid_file is not None:
        words += ["-daemonize", "-pidfile", str(machine.pid_file)]
    return words


def check_free_space(folder: Path, *, min_free_mib: int = MIN_FREE_MIB) -> None:
    """Raise BuilderError when the disk under `folder` is nearly full."""
    free_mib = shutil.disk_usage(folder).free // 2**20
    if free_mib < min_free_mib:
        raise BuilderError(
            f"Only {free_mib} MiB are free under `{folder}`; a guest's disk needs {min_free_mib} MiB",
            hint="Free some space, or set TMPDIR (or BUILDER_IMAGES) to a folder on another disk",
        )


def choose_ports(wanted: Mapping[int, int]) -> dict[int, int]:
    """Fill in a free port on loopback for each 0; BuilderError when a given one is taken."""
    chosen: dict[int, int] = {}
    held: list[socket.socket] = []
    try:
        for guest, host in wanted.items():
            listener = socket.socket()
            held.append(listener)  # held until all are chosen, so that no two are the same
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((_LOOPBACK, host))
            except OSError as error:
                raise port_taken(host, guest) from error
            chosen[guest] = listener.getsockname()[1]
    finally:
        for listener in held:
            listener.close()
    return chosen


def port_taken(host: int, guest: int) -> BuilderError:
    """Return the error for a port of this machine that something else listens on."""
    return BuilderError(
        f"Port {host} of this machine, which was to lead to port {guest} of the guest, cannot be used: "
        "another program listens there, or it needs root",
        hint=f"See who does with `ss -ltnp 'sport = :{host}'`, or choose another port",
    )


def _value(path: Path) -> str:
    # In QEMU's option lists a comma is written twice.
    return str(path.absolute()).replace(",", ",,")

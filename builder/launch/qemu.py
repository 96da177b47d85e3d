"""QEMU's command line, the checks of an image before it is started, and the disks of one guest."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from builder import process
from builder.errors import BuilderError, CommandError, ToolError
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


def find_qemu_img() -> Path:
    """Return the path of qemu-img; ToolError with the apt line when it is missing."""
    return process.find_tool("qemu-img", to="read and write disk images", install=INSTALL)


def dies_with_us() -> list[str]:
    """Return the words before a command that is to end when this process does, even by SIGKILL.

    Nothing where util-linux's setpriv is missing: then only an orderly end takes the guest along.
    """
    try:
        setpriv = process.find_tool("setpriv", to="end a guest", install="sudo apt install util-linux")
    except ToolError:
        return []
    return [str(setpriv), "--pdeathsig", "KILL"]


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


def check_image(image: Path) -> str:
    """Return the format of a disk image that can be used; BuilderError says what is wrong with it."""
    if not image.is_file():
        raise BuilderError(
            f"There is no image `{image}`", hint="See `builder images`, or bake one with `builder bake`"
        )
    facts = describe_image(image)
    name = str(facts.get("format", ""))
    if name not in ("qcow2", "raw"):
        raise BuilderError(f"`{image}` is a `{name}` image; qcow2 or raw is expected")
    if name == "raw" and image.suffix != ".raw" and not _has_boot_sector(image):
        raise BuilderError(
            f"`{image}` is not a disk image: neither a qcow2 header nor a boot sector",
            hint="Bake it again with `builder bake --force`, or check the download's digest",
        )
    if name == "qcow2":
        _check_qcow2(image)
    return name


def describe_image(image: Path) -> dict[str, Any]:
    """Return what `qemu-img info` says; BuilderError when it cannot read the file."""
    try:
        # -U: an image that a guest is using may be looked at.
        done = process.run([find_qemu_img(), "info", "-U", "--output=json", image])
    except CommandError as error:
        raise BuilderError(
            f"`{image}` cannot be read as a disk image: {_last_line(error.output)}",
            hint="Bake it again with `builder bake --force`, or check the download's digest",
        ) from error
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def _check_qcow2(image: Path) -> None:
    # Exit code 3: clusters that nothing uses (a crash leaves them); harmless. Source: qemu-img(1), check.
    done = process.run(
        [find_qemu_img(), "check", "-U", "--output=json", image], check=False, timeout_seconds=300
    )
    if done.returncode not in (0, 3):
        raise BuilderError(
            f"`{image}` is corrupt; `qemu-img check` says: {_last_line(done.stderr) or 'errors'}",
            hint="Bake it again with `builder bake --force`, or check the download's digest",
        )
    facts = json.loads(done.stdout)
    end, size = int(facts.get("image-end-offset", 0)), image.stat().st_size
    # A compressed image may end within its last cluster, 64 KiB.
    if end - size > 65536:
        raise BuilderError(
            f"`{image}` is cut short: {size} bytes, but its table of clusters reaches to {end}",
            hint="Bake it again with `builder bake --force`, or copy it again",
        )


def create_overlay(image: Path, image_format: str, overlay: Path) -> None:
    """Create a disk that reads from `image` and keeps what the guest writes."""
    # -F: QEMU 6.1 and newer refuses to guess the format of the backing file.
    process.run(
        [find_qemu_img(), "create", "-q", "-f", "qcow2", "-F", image_format, "-b", image.resolve(), overlay]
    )


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


def _has_boot_sector(image: Path) -> bool:
    with image.open("rb") as stream:
        return stream.read(512)[510:] == b"\x55\xaa"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _value(path: Path) -> str:
    # In QEMU's option lists a comma is written twice.
    return str(path.absolute()).replace(",", ",,")

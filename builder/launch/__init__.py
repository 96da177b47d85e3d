"""Boot an image: for a while in a `with` block, or as a relay that stays.

`launch_qemu` gives a `QemuGuest` on a throw-away overlay; `instances` starts relays that outlive the command.
An image is never written to: every guest has a disk of its own on top of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from builder import disk_image
from builder.launch import qemu, seed
from builder.launch.accelerator import Accelerator, announce, choose_accelerator
from builder.launch.guest import GuestFiles, QemuGuest
from builder.launch.identity import new_identity
from builder.launch.interface import (
    FORWARDED,
    HEALTH_PORT,
    SMTP_PORT,
    SSH_PORT,
    Address,
    DiskGuest,
    Guest,
    GuestError,
    Launcher,
)
from builder.launch.qemu import Machine
from builder.scratch import Scratch

__all__ = [
    "HEALTH_PORT",
    "SMTP_PORT",
    "SSH_PORT",
    "Accelerator",
    "Address",
    "DiskGuest",
    "Guest",
    "GuestError",
    "Launcher",
    "QemuGuest",
    "announce",
    "choose_accelerator",
    "launch_qemu",
]


def launch_qemu(
    image: Path,
    *,
    user_data: str,
    login: bool = False,
    logs: Path | None = None,
    accelerator: Accelerator | None = None,
    memory_mib: int = 1024,
    cpus: int = 2,
    forward: Mapping[int, int] | Iterable[int] = FORWARDED,
) -> QemuGuest:
    """Boot an image fresh on a throw-away overlay; use the result in a `with` block.

    `login` adds a user of its own (`probe`, key only) to the user data, so that `run` works. `logs` is where
    the serial console and QEMU's messages stay; without it they go with the guest. `forward` maps ports of
    the guest to ports of this machine's loopback address, 0 for a free one. Errors: BuilderError with what
    is wrong with the image, QEMU, the ports or the disk space.
    """
    wanted = dict(forward) if isinstance(forward, Mapping) else dict.fromkeys(forward, 0)
    qemu.find_qemu()
    checked = disk_image.check(image, disk_image.BAKED)
    with ExitStack() as made:
        work = made.enter_context(Scratch("guest"))
        sockets = made.enter_context(Scratch("sockets", short=True))
        qemu.check_free_space(work)
        key = work / "id_ed25519" if login else None
        if key is not None:
            user_data = seed.add_login(user_data, seed.make_key(key))
        identity = new_identity()
        machine = Machine(
            name=f"builder-{identity}",
            accelerator=accelerator or choose_accelerator(),
            disk=work / "disk.qcow2",
            seed=work / "seed.iso",
            serial=(logs or work) / "serial.log",
            qmp=sockets / "qmp",
            forward=qemu.choose_ports(wanted),
            memory_mib=memory_mib,
            cpus=cpus,
        )
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
            machine.serial.unlink(missing_ok=True)
        disk_image.create_overlay(checked, machine.disk)
        seed.write_seed(machine.seed, user_data=user_data, instance_id=identity, work=work / "seed")
        files = GuestFiles(folders=made.pop_all(), logs=logs or work, keeps_logs=logs is not None, key=key)
    return _started(QemuGuest(machine, files))


def _started(guest: QemuGuest) -> QemuGuest:
    try:
        guest.start()
    except BaseException:
        guest.close()
        raise
    return guest

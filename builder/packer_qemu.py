"""The disk of a QEMU bake: a fresh overlay on the base before Packer, one file of its own after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builder import disk_image, process
from builder.errors import CommandError
from builder.packer_door import free_ports
from builder.workspace import Workspace, disk_full, require_space

_MINUTES = 30 * 60
# qemu-img says so when the host's disk is full.
_NO_SPACE = "No space left on device"


def make_overlay(base: Path, overlay: Path, *, disk_gib: int | None = None) -> Path:
    """Lay an empty qcow2 on a base, `disk_gib` large when that is more than the base.

    Packer copies the overlay (200 kB) instead of the base, with every version; `use_backing_file` of
    1.6.6 forgets the backing format, which QEMU 6.1 and newer refuse.
    """
    image = disk_image.read(base, disk_image.BASE)
    disk_image.create_overlay(image, overlay, disk_bytes=(disk_gib or 0) << 30)
    return overlay


def values(
    work: Workspace,
    disk: Path,
    *,
    accelerator: str,
    cpus: int = 2,
    memory_mib: int = 2048,
    ssh_timeout: str = "15m",
    ports: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Return the template's variables for a bake in this workspace; every path is absolute.

    `ports` are those of SSH at the host, builder's and QEMU's; without them free ones are looked for.
    """
    ssh_port, forwarded_port = ports or free_ports(2)
    return {
        "name": work.name,
        "cpus": cpus,
        "memory_mib": memory_mib,
        "accelerator": accelerator,
        "disk": str(disk),
        "output_directory": str(work.out),
        "seed_files": [str(path) for path in sorted(work.seed.glob("*"))],
        "serial_log": str(work.serial_log),
        "ssh_port": ssh_port,
        "forwarded_port": forwarded_port,
        "ssh_private_key_file": str(work.key),
        "ssh_timeout": ssh_timeout,
        "payload": str(work.payload),
        "manifest": str(work.manifest),
    }


def expected_values() -> dict[str, Any]:
    """Return the variables that any bake under QEMU sets, to check a template before there is a workspace."""
    work = Workspace(Path("images"), "name", "id")
    return values(work, work.path / "start.qcow2", accelerator="tcg", ports=(1, 2))


def flatten(overlay: Path, image: Path) -> Path:
    """Write the overlay and its base as one qcow2 without what was trimmed; `image` appears whole or not.

    Errors: BuilderError when the disk is full, with no half file left.
    """
    partial = image.with_name(f".{image.name}.partial")
    command: list[str | Path] = ["qemu-img", "convert", "-O", "qcow2", "-W", "-m", "4", overlay, partial]
    try:
        process.run(command, timeout_seconds=_MINUTES)
    except CommandError as error:
        partial.unlink(missing_ok=True)
        if _NO_SPACE in error.output:
            raise disk_full(image.parent) from error
        raise
    partial.rename(image)
    return image


def require_bake_space(base: Path, folder: Path) -> None:
    """Check that a bake of this base fits: the finished image, and what is written on the way.

    Errors: BuilderError before anything is started.
    """
    require_space(folder, 2 * base.stat().st_size + (2 << 30), to=f"bake from `{base.name}`")

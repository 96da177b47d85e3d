"""Check that a file is a whole disk image, before anything is built upon it or booted from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import process
from builder.errors import BuilderError, CommandError
from builder.process import Finished

_INSTALL = "sudo apt-get install qemu-utils"
_FORMATS = ("qcow2", "raw")
_CLUSTER_BYTES = 64 << 10


@dataclass(frozen=True)
class Role:
    """What an image is to the user: its name in errors, where one is found, and how to get it again."""

    noun: str
    find: str
    again: str


BASE = Role(
    "base image",
    "Give a qcow2 or raw file, or a name from `builder base list`",
    "Get the image again and compare its checksum with the publisher's",
)
BAKED = Role(
    "image",
    "See `builder images`, or bake one with `builder bake`",
    "Bake it again with `builder bake --force`, or check the download's digest",
)


@dataclass(frozen=True)
class DiskImage:
    """A file that qemu-img can read: `qcow2` or `raw`, and the bytes of the disk in it."""

    path: Path
    format: str
    disk_bytes: int


def read(path: Path, role: Role) -> DiskImage:
    """Read what a disk image says of itself.

    Errors: BuilderError when it is missing, cannot be read, has another format or needs another file.
    """
    if not path.is_file():
        what = "is a folder, not an image" if path.is_dir() else "does not exist"
        raise BuilderError(f"The {role.noun} `{path}` {what}", hint=role.find)
    info = _info(path, role)
    convert = f"Run `qemu-img convert -O qcow2 {path} flat.qcow2` and give that file"
    if info["format"] not in _FORMATS:
        raise BuilderError(
            f"The {role.noun} `{path}` is in the format `{info['format']}`; expected qcow2 or raw",
            hint=convert,
        )
    if "backing-filename" in info:
        raise BuilderError(
            f"The {role.noun} `{path}` is only the changes to `{info['backing-filename']}`", hint=convert
        )
    return DiskImage(path, info["format"], int(info.get("virtual-size", 0)))


def check(path: Path, role: Role) -> DiskImage:
    """Read a disk image and check that all of it is there.

    Errors: BuilderError as from `read`, and when it is truncated, corrupt or no disk at all.
    """
    image = read(path, role)
    if image.format == "qcow2":
        _check_qcow2(image, role)
    elif not _has_boot_sector(image, role):
        raise BuilderError(
            f"The {role.noun} `{path}` is not a disk image: neither qcow2 nor a raw disk with a boot sector",
            hint="A compressed image must be unpacked first; a download may have been an error page",
        )
    return image


def create_overlay(
    image: DiskImage, overlay: Path, *, disk_bytes: int = 0, moves_along: bool = False
) -> None:
    """Create a qcow2 that reads from an image and keeps what is written, `disk_bytes` large or as the image.

    With the format of the image in it: QEMU 6.1 and newer refuses to guess. `moves_along`: the image lies in
    the same folder and is looked for there, wherever the folder is (qemu-img(1), `-b`).
    """
    backing = Path(image.path.name) if moves_along else image.path.resolve()
    size = [str(disk_bytes)] if disk_bytes > image.disk_bytes else []
    _qemu_img("create", "-q", "-f", "qcow2", "-F", image.format, "-b", backing, overlay, *size)


def _qemu_img(*words: str | Path, check: bool = True, timeout_seconds: float = 60) -> Finished:
    tool = process.find_tool("qemu-img", to="read and write disk images", install=_INSTALL)
    return process.run([tool, *words], check=check, timeout_seconds=timeout_seconds)


def _info(path: Path, role: Role) -> dict[str, Any]:
    try:
        # -U: an image that a guest is using may be looked at.
        info: dict[str, Any] = json.loads(_qemu_img("info", "-U", "--output=json", path).stdout)
    except CommandError as error:
        raise _damaged(path, role, _reason(error.output)) from error
    except ValueError as error:
        raise _damaged(path, role, "`qemu-img info` gave no JSON") from error
    return info


def _check_qcow2(image: DiskImage, role: Role) -> None:
    done = _qemu_img(
        "check", "-U", "--output=json", "-f", "qcow2", image.path, check=False, timeout_seconds=300
    )
    found = _numbers(done.stdout)
    errors = found.get("corruptions", 0) + found.get("check-errors", 0)
    # 3 is leaked clusters, which a crash leaves: wasted room, nothing lost (qemu-img(1), check).
    if done.returncode not in (0, 3):
        reason = f"`qemu-img check` finds {errors} errors" if errors else _reason(done.stdout + done.stderr)
        raise _damaged(image.path, role, reason)
    end, size = found.get("image-end-offset", 0), image.path.stat().st_size
    if end - size > _CLUSTER_BYTES:  # a compressed image may end within its last cluster
        raise _damaged(image.path, role, f"{size} bytes, but its table of clusters reaches to {end}")


def _numbers(text: str) -> dict[str, int]:
    try:
        return {name: value for name, value in json.loads(text).items() if isinstance(value, int)}
    except ValueError:
        return {}


def _has_boot_sector(image: DiskImage, role: Role) -> bool:
    try:
        with image.path.open("rb") as stream:
            return stream.read(512)[510:] == b"\x55\xaa"
    except OSError as error:
        raise BuilderError(f"Cannot read the {role.noun} `{image.path}`: {error.strerror}") from error


def _damaged(path: Path, role: Role, reason: str) -> BuilderError:
    return BuilderError(f"The {role.noun} `{path}` is truncated or corrupt: {reason}", hint=role.again)


def _reason(output: str) -> str:
    """Return the line that says what is wrong; `qemu-img check` may print thousands before it."""
    lines = [line.removeprefix("qemu-img: ").strip() for line in output.splitlines()]
    summary = [line for line in lines if "were found on the image" in line or "Could not" in line]
    return (summary or [line for line in lines if line] or ["`qemu-img` gave no reason"])[0]

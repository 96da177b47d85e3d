"""Room for the queue, in bytes and in files: how much there is, and what a lack of it means.

Below 1.5 times the largest message Postfix refuses mail with 452 (smtpd.c, `smtpd_check_size`); with no inode
left it does not even answer. Both show only when a client tries, so they are looked for here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay_agent.trouble import Trouble

_MIB = 2**20
# Each message is one file, and one more that says why it waits.
_LEAST_FILES, _FEW_FILES, _MANY_FILES = 100, 1000, 20_000
_LOW_SHARE = 0.05
_MANY_BYTES = 1024 * _MIB
_HINT = (
    "`journalctl --vacuum-size=100M`, `relayctl queue`; then a larger disk. The queue goes on being delivered"
)
# What was short once must have this much more, or the state would flutter.
_RELIEF = 1.2


@dataclass(frozen=True)
class Room:
    """What is free for the queue; `files` is 0 where the file system has no fixed number of them."""

    free_bytes: int
    size_bytes: int
    free_files: int
    files: int
    is_read_only: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return what `status.json` shows."""
        return {
            "free_bytes": self.free_bytes,
            "size_bytes": self.size_bytes,
            "free_files": self.free_files,
            "files": self.files,
            "read_only": self.is_read_only,
        }


def look(folder: Path) -> Room:
    """Ask the file system of a folder. Errors: OSError."""
    found = os.statvfs(folder)
    return Room(
        free_bytes=found.f_bavail * found.f_frsize,
        size_bytes=found.f_blocks * found.f_frsize,
        free_files=found.f_favail,
        files=found.f_files,
        is_read_only=bool(found.f_flag & os.ST_RDONLY),
    )


def full(room: Room, message_bytes: int, *, was_short: bool = False) -> Trouble | None:
    """Say why Postfix takes no mail, if so: `disk-read-only`, `disk-full` or `inodes-full`."""
    factor = _RELIEF if was_short else 1.0
    if room.is_read_only:
        return Trouble(
            "disk-read-only",
            "The file system of the queue is read-only: Postfix takes and delivers nothing",
            hint="`dmesg` says why (often a disk error); then `mount -o remount,rw` or another machine",
        )
    if room.free_bytes < 1.5 * message_bytes * factor:
        return Trouble("disk-full", f"{_free(room)}: Postfix refuses mail with 452", hint=_HINT)
    if room.files and room.free_files < _LEAST_FILES * factor:
        return Trouble("inodes-full", f"{_free(room)}: Postfix cannot take mail", hint=_HINT)
    return None


def low(room: Room, message_bytes: int, *, was_short: bool = False) -> Trouble | None:
    """Say what will soon be short, if anything: `disk-low` or `inodes-low`."""
    factor = _RELIEF if was_short else 1.0
    least = max(3.0 * message_bytes, min(_LOW_SHARE * room.size_bytes, _MANY_BYTES))
    if room.free_bytes < least * factor:
        return Trouble("disk-low", f"{_free(room)}: the disk is nearly full", hint=_HINT)
    few = max(_FEW_FILES, min(_LOW_SHARE * room.files, _MANY_FILES))
    if room.files and room.free_files < few * factor:
        return Trouble("inodes-low", f"{_free(room)}: the files are nearly used up", hint=_HINT)
    return None


def _free(room: Room) -> str:
    files = f" and {room.free_files} files" if room.files else ""
    return f"{room.free_bytes // _MIB} MiB{files} free for the queue"


class RoomWatcher:
    """Remembers the last look; `check` costs one system call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.message_bytes = 0
        self.room: Room | None = None
        self.full: Trouble | None = None
        self.low: Trouble | None = None

    def check(self) -> None:
        """Look again; a folder that is not there is not short of room."""
        try:
            self.room = look(self._folder)
        except OSError:
            self.room = self.full = self.low = None
            return
        self.full = full(self.room, self.message_bytes, was_short=self.full is not None)
        self.low = low(self.room, self.message_bytes, was_short=self.low is not None)

"""Look into a disk image from outside: no boot, no mount, no root.

The image is laid out as a sparse raw file; partitions come from its table, files through e2fsprogs' debugfs.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from builder import process
from builder.errors import BuilderError

_SECTOR = 512
_EXT_MAGIC = b"\x53\xef"
_INSTALL = "sudo apt install e2fsprogs"
_INSTALL_QEMU = "sudo apt install qemu-utils"
_WINDOW = 64 * 2**20
_OVERLAP = 64 * 2**10


@dataclass(frozen=True)
class Entry:
    """One name in a directory of the image; `size` is 0 for a directory."""

    path: str
    inode: int
    mode: int
    uid: int
    gid: int
    size: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


def write_raw(image: Path, image_format: str, raw: Path) -> None:
    """Lay an image and everything beneath it out as one sparse raw file."""
    qemu_img = process.find_tool("qemu-img", to="read the finished image", install=_INSTALL_QEMU)
    process.run([qemu_img, "convert", "-q", "-f", image_format, "-O", "raw", image, raw], timeout_seconds=900)


def find_file_systems(raw: Path) -> list[FileSystem]:
    """Return the ext2/3/4 file systems of a raw disk, in the order of its partitions."""
    with raw.open("rb") as stream:
        offsets = [0, *_partitions(stream.fileno())]
        return [FileSystem(raw, offset) for offset in offsets if _is_ext(stream.fileno(), offset)]


def find_root(raw: Path) -> FileSystem:
    """Return the file system with `/etc`; BuilderError when there is none that can be read."""
    for candidate in find_file_systems(raw):
        if candidate.exists("/etc/passwd"):
            return candidate
    raise BuilderError(
        f"`{raw}` has no ext4 file system with `/etc/passwd`, so it cannot be looked into from outside"
    )


class FileSystem:
    """An ext2/3/4 file system inside a raw disk. Paths are absolute; nothing follows a symbolic link."""

    def __init__(self, raw: Path, offset: int) -> None:
        self._debugfs = process.find_tool("debugfs", to="look into the finished image", install=_INSTALL)
        self._target = f"{raw}?offset={offset}" if offset else str(raw)
        self.raw = raw
        self.offset = offset

    def entry(self, path: str) -> Entry | None:
        """Return what is at a path, or None."""
        parent, name = str(PurePosixPath(path).parent), PurePosixPath(path).name
        return next((found for found in self.entries(parent) if found.name == name), None)

    def exists(self, path: str) -> bool:
        """Say whether something is at a path."""
        return self.entry(path) is not None

    def entries(self, path: str) -> list[Entry]:
        """Return the entries of a directory; none when it is missing."""
        return self.entries_of_all([path])

    def entries_of_all(self, paths: Iterable[str]) -> list[Entry]:
        """Return the entries of several directories; those that are missing add none."""
        found = []
        for path, text in self._ask("ls -p", paths):
            for line in text.splitlines():
                entry = _parse_entry(path, line)
                if entry is not None:
                    found.append(entry)
        return found

    def walk(self, *paths: str) -> list[Entry]:
        """Return everything below these directories."""
        found: list[Entry] = []
        level = list(paths)
        while level:
            entries = self.entries_of_all(level)
            found += entries
            level = [entry.path for entry in entries if entry.is_directory]
        return found

    def read(self, path: str) -> str:
        """Return a file's text; empty when it is missing."""
        return self.read_all([path]).get(path, "")

    def read_all(self, paths: Iterable[str]) -> dict[str, str]:
        """Return path → text of several files."""
        return dict(self._ask("cat", paths))

    def state(self) -> str:
        """Return what the superblock says: `clean`, or what it still needs."""
        return "needs recovery" if "needs_recovery" in self._superblock else self._value("Filesystem state")

    def owner(self, position: int) -> str:
        """Return the path of the file that has this byte of the disk; `free space` when none has."""
        block = (position - self.offset) // int(self._value("Block size"))
        inode = _last_number(self._one(f"icheck {block}"))
        if inode is None:
            return "free space"
        lines = self._one(f"ncheck {inode}").splitlines()[1:]
        return lines[0].partition("\t")[2] if lines else f"inode {inode}"

    @cached_property
    def _superblock(self) -> str:
        return self._one("show_super_stats -h")

    def _value(self, name: str) -> str:
        match = re.search(rf"^{name}:\s+(.+)$", self._superblock, re.MULTILINE)
        return match.group(1).strip() if match else "unknown"

    def _one(self, request: str) -> str:
        return process.run([self._debugfs, "-R", request, self._target]).stdout

    def _ask(self, command: str, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Run one debugfs command per path in one go and return path and answer."""
        wanted = [path for path in paths if _can_be_asked(path)]
        if not wanted:
            return
        script = "".join(f'{command} "{path}"\n' for path in wanted)
        # Commands from stdin are echoed after a prompt that begins a line of its own only after a line break.
        said = process.run([self._debugfs, "-f", "/dev/stdin", self._target], stdin=script).stdout
        position = 0
        for number, path in enumerate(wanted):
            start = said.index(_echo(command, path), position) + len(_echo(command, path))
            follower = _echo(command, wanted[number + 1]) if number + 1 < len(wanted) else None
            end = said.index(follower, start) if follower else len(said)
            position = end
            yield path, said[start:end]


def written_ranges(overlay: Path) -> list[tuple[int, int]]:
    """Return first and last byte of each part of the disk that an overlay has written itself."""
    qemu_img = process.find_tool("qemu-img", to="read a guest's disk", install=_INSTALL_QEMU)
    said = process.run([qemu_img, "map", "--output=json", overlay], timeout_seconds=300).stdout
    own = [part for part in json.loads(said) if part["depth"] == 0 and part["data"]]
    return [(part["start"], part["start"] + part["length"]) for part in own]


def search(
    raw: Path,
    needles: Mapping[bytes, re.Pattern[bytes] | None],
    *,
    ranges: Iterable[tuple[int, int]] | None = None,
) -> list[tuple[int, bytes]]:
    """Return offset and text of each find anywhere on a disk: files, free blocks, journal.

    A needle is what is looked for; where it has a pattern, that must match from there. Without `ranges`
    everything but the holes of a sparse file is searched. A match may be up to 64 KiB long.
    """
    found: dict[tuple[int, bytes], None] = {}
    size = raw.stat().st_size
    with raw.open("rb") as stream:
        for start, end in _data_ranges(stream.fileno(), size) if ranges is None else ranges:
            first = max(0, start - _OVERLAP)
            for window in range(first, min(end, size), _WINDOW):
                length = min(_WINDOW, end - window) + _OVERLAP
                piece = os.pread(stream.fileno(), length, window)
                for needle, pattern in needles.items():
                    for at, text in _finds(piece, needle, pattern):
                        found[(window + at, text)] = None
    return sorted(found)


def _finds(piece: bytes, needle: bytes, pattern: re.Pattern[bytes] | None) -> Iterator[tuple[int, bytes]]:
    # bytes.find is many times faster than a regular expression; on a gigabyte that is half a minute.
    at = piece.find(needle)
    while at >= 0:
        if pattern is None:
            yield at, needle
        else:
            match = pattern.match(piece, at)
            if match:
                yield at, match.group()
        at = piece.find(needle, at + 1)


def _data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position


def _last_number(answer: str) -> int | None:
    # icheck answers "block TAB inode" below a header, or "block TAB <block not found>".
    words = answer.split()
    return int(words[-1]) if words and words[-1].isdigit() else None


def _echo(command: str, path: str) -> str:
    return f'debugfs: {command} "{path}"\n'


def _can_be_asked(path: str) -> bool:
    return '"' not in path and "\n" not in path


def _parse_entry(directory: str, line: str) -> Entry | None:
    # /inode/mode/uid/gid/name/size/ ; a name cannot hold a slash, and a directory has no size.
    parts = line.split("/")
    if len(parts) != 8 or parts[5] in (".", "..", "") or not parts[1].isdigit() or parts[1] == "0":
        return None
    return Entry(
        path=str(PurePosixPath(directory) / parts[5]),
        inode=int(parts[1]),
        mode=int(parts[2], 8),
        uid=int(parts[3]),
        gid=int(parts[4]),
        size=int(parts[6] or 0),
    )


def _is_ext(descriptor: int, offset: int) -> bool:
    # The superblock begins at byte 1024, its magic number at byte 56 of that.
    return os.pread(descriptor, 2, offset + 1080) == _EXT_MAGIC


def _partitions(descriptor: int) -> list[int]:
    """Return the first byte of each partition, from a GPT or, where there is none, the MBR."""
    header = os.pread(descriptor, _SECTOR, _SECTOR)
    if header[:8] == b"EFI PART":
        # UEFI specification, 5.3.2: first entry's block, number of entries, size of one.
        block, count, size = struct.unpack_from("<QII", header, 72)
        table = os.pread(descriptor, count * size, block * _SECTOR)
        return [
            struct.unpack_from("<Q", table, at + 32)[0] * _SECTOR
            for at in range(0, len(table) - size + 1, size)
            if table[at : at + 16] != bytes(16)
        ]
    record = os.pread(descriptor, _SECTOR, 0)
    if record[510:] != b"\x55\xaa":
        return []
    entries = [record[at : at + 16] for at in range(446, 510, 16)]
    return [struct.unpack_from("<I", entry, 8)[0] * _SECTOR for entry in entries if entry[4]]

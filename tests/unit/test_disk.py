"""Look into disks: what is found, where, and in what was written only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder import disk, process
from builder.disk import FileSystem

MIB = 2**20


def _file_system(folder: Path, files: dict[str, str]) -> FileSystem:
    tree = folder / "tree"
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    raw = folder / "disk.raw"
    process.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, raw, "8M"])
    return FileSystem(raw, 0)


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    files = {"etc/no-newline": "end", "etc/with blank": "a\nb\n", "etc/empty": ""}
    system = _file_system(tmp_path, files)
    found = system.read_all([f"/{path}" for path in files])
    assert found == {f"/{path}": text for path, text in files.items()}


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_what_is_missing_is_empty(tmp_path: Path) -> None:
    system = _file_system(tmp_path, {"etc/passwd": "root\n"})
    assert system.read("/etc/shadow") == ""
    assert system.entries("/nowhere") == []
    assert not system.exists("/etc/shadow")


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_a_walk_reaches_every_level(tmp_path: Path) -> None:
    system = _file_system(tmp_path, {"var/a/b/c/d": "1", "var/e": "2"})
    assert {entry.path for entry in system.walk("/var")} == {
        "/var/a",
        "/var/a/b",
        "/var/a/b/c",
        "/var/a/b/c/d",
        "/var/e",
    }


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_the_owner_of_a_byte_is_its_file(tmp_path: Path) -> None:
    system = _file_system(tmp_path, {"etc/needle": "NEEDLE" * 1000})
    position, _text = disk.search(system.raw, {b"NEEDLE": None})[0]
    assert system.owner(position) == "/etc/needle"
    assert system.owner(system.raw.stat().st_size - 1) == "free space"


def test_a_find_may_lie_across_two_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_WINDOW", 4096)
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(4090) + b"NEEDLE-1" + bytes(9000) + b"NEEDLE-2")
    found = disk.search(raw, {b"NEEDLE": re.compile(rb"NEEDLE-\d")})
    assert found == [(4090, b"NEEDLE-1"), (13098, b"NEEDLE-2")]


def test_holes_are_not_read(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as stream:
        stream.truncate(2**40)
        stream.seek(2**39)
        stream.write(b"NEEDLE")
    assert disk.search(raw, {b"NEEDLE": None}) == [(2**39, b"NEEDLE")]


def test_an_empty_disk_holds_nothing(tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.touch()
    assert disk.search(raw, {b"NEEDLE": None}) == []


@pytest.mark.allow_programs("qemu-img", "qemu-io")
def test_only_what_an_overlay_wrote_is_searched(tmp_path: Path) -> None:
    base, overlay, raw = tmp_path / "base.qcow2", tmp_path / "disk.qcow2", tmp_path / "disk.raw"
    plain = tmp_path / "plain.raw"
    plain.write_bytes(b"\x11" * MIB + bytes(7 * MIB))
    process.run(["qemu-img", "convert", "-O", "qcow2", plain, base])
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, overlay])
    process.run(["qemu-io", "-c", "write -P 0x22 4M 64k", overlay])
    ranges = disk.written_ranges(overlay)
    assert ranges == [(4 * MIB, 4 * MIB + 65536)]
    disk.write_raw(overlay, "qcow2", raw)
    assert disk.search(raw, {b"\x22" * 65536: None}, ranges=ranges) == [(4 * MIB, b"\x22" * 65536)]
    assert disk.search(raw, {b"\x11" * 100: None}, ranges=ranges) == []

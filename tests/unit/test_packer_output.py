"""Packer's output becomes phases, reasons and files."""

from __future__ import annotations

from pathlib import Path

from builder import packer_output
from builder.packer_output import Progress


def progress(log: Path) -> tuple[Progress, list[str]]:
    notes: list[str] = []
    log.touch()
    return Progress(log, notes.append), notes


def append(log: Path, text: str) -> None:
    with log.open("a") as stream:
        stream.write(text)


def test_phases_follow_the_output(tmp_path: Path) -> None:
    log = tmp_path / "packer.log"
    seen, notes = progress(log)
    append(log, "==> qemu.relay: Starting VM, booting disk image\n")
    seen.update()
    append(log, "==> qemu.relay: Connected to SSH!\n    qemu.relay: BUILDER-PHASE install\n")
    seen.update()
    append(log, "    qemu.relay: Setting up postfix\n    qemu.relay: BUILDER-PHASE seal\n")
    seen.update()
    seen.finish()
    assert notes == ["booting, waiting for SSH", "connected", "installing packages", "sealing the image"]
    assert list(seen.timings) == ["prepare", "boot", "upload", "install", "seal"]


def test_line_that_is_half_written_waits(tmp_path: Path) -> None:
    log = tmp_path / "packer.log"
    seen, notes = progress(log)
    append(log, "    qemu.relay: BUILDER-PH")
    seen.update()
    assert notes == []
    append(log, "ASE configure\n")
    seen.update()
    assert notes == ["configuring the relay"]


def test_reasons_are_packers_own_words(tmp_path: Path) -> None:
    log = tmp_path / "packer.log"
    seen, _ = progress(log)
    append(
        log,
        "==> qemu.relay: Error launching VM: Qemu failed to start.\n"
        "Build 'qemu.relay' errored after 165 milliseconds 36 microseconds: Build was halted.\n",
    )
    seen.update()
    assert seen.reasons == ["Error launching VM: Qemu failed to start.", "Build was halted."]


def test_files_between_marks_are_cut_out(tmp_path: Path) -> None:
    log = tmp_path / "packer.log"
    log.write_text(
        "==> qemu.relay: Connected to SSH!\n"
        "    qemu.relay: BUILDER-DIAG begin packages.tsv\n"
        "    qemu.relay: adduser\t3.134\tall\n"
        "    qemu.relay: apt\t2.6.1\tamd64\n"
        "    qemu.relay:\n"
        "    qemu.relay: BUILDER-DIAG end\n"
        "    qemu.relay: BUILDER-DIAG begin disk.txt\n"
        "==> qemu.relay: df: no\n"
    )
    assert packer_output.cut_files(log) == {
        "packages.tsv": "adduser\t3.134\tall\napt\t2.6.1\tamd64\n",
        "disk.txt": "df: no\n",
    }


def test_no_log_has_no_files(tmp_path: Path) -> None:
    assert packer_output.cut_files(tmp_path / "packer.log") == {}

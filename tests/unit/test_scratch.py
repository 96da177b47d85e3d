"""Temporary folders are cleared by the next run when this one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from builder import scratch
from builder.scratch import Scratch

pytestmark = pytest.mark.allow_programs(Path(sys.executable).name)
PRINTS_ONE = "from builder.scratch import Scratch; held = Scratch('guest'); print(held.path, flush=True)\n"
HOLDS_ONE = f"{PRINTS_ONE}import time; time.sleep(60)"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a temporary directory of its own."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_a_folder_is_gone_after_its_block(temporary: Path) -> None:
    with Scratch("guest") as folder:
        (folder / "disk.qcow2").write_text("x")
        assert folder.parent == temporary
        assert folder.name.startswith("builder-guest-")
    assert not folder.exists()


def test_a_folder_in_use_is_left_alone() -> None:
    with (
        Scratch("one") as mine,
        subprocess.Popen([sys.executable, "-c", HOLDS_ONE], stdout=subprocess.PIPE, text=True) as other,
    ):
        assert other.stdout
        its = Path(other.stdout.readline().strip())
        scratch.sweep()
        assert mine.exists()
        assert its.exists()
        other.terminate()


def test_what_a_killed_run_left_is_cleared_by_the_next() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS_ONE], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout
        left = Path(killed.stdout.readline().strip())
        killed.send_signal(signal.SIGKILL)
    assert left.exists()
    with Scratch("guest"):
        assert not left.exists()


def test_a_child_does_not_keep_the_folder_in_use() -> None:
    script = (
        f"{PRINTS_ONE}import os, subprocess\n"
        f"sleep = [{sys.executable!r}, '-c', 'import time; time.sleep(60)']\n"
        # Not our pipe, or the end of it would be waited for.
        "child = subprocess.Popen(sleep, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    left, child = done.stdout.split()
    try:
        scratch.sweep()
        assert not Path(left).exists()
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_what_nobody_claimed_is_left_alone(temporary: Path) -> None:
    (temporary / "builder-notes").mkdir()
    (temporary / "other-abcd").mkdir()
    (temporary / "other-abcd" / ".in-use").touch()
    kept = scratch.lasting("relay")
    scratch.sweep()
    assert {path.name for path in temporary.iterdir()} >= {"builder-notes", "other-abcd"}
    assert kept.exists()
    kept.rmdir()


def test_a_folder_of_somebody_else_is_left_alone(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = temporary / "builder-guest-x"
    folder.mkdir()
    (folder / ".in-use").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    scratch.sweep()
    assert folder.exists()


def test_sockets_find_room_also_where_tmpdir_is_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = tmp_path / ("long" * 30)
    far.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(far))
    with Scratch("sockets", short=True) as near, Scratch("guest") as roomy:
        assert len(str(near / "packer-plugin0123456789")) < 107
        assert roomy.parent == far

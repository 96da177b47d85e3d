"""Sealing looks at what cloud-init said; tests/data/cloud-init has what its own code printed, by version."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.allow_programs(Path(sys.executable).name)

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "packer/scripts/cloud_init_result.py"
DATA = ROOT / "tests/data/cloud-init"

GOOD = {
    "20.4.1-done.txt",
    "20.4.1-disabled.txt",
    "22.4.2-done.json",
    "23.4-done.json",
    "23.4-deprecated.json",
    "25.1.4-done.json",
    "25.1.4-deprecated.json",
}
BAD = {
    "20.4.1-error.txt": "error",
    "22.4.2-error.json": "error",
    "23.4-error.json": "error",
    "23.4-warning.json": "done",
    "25.1.4-error.json": "error",
    "25.1.4-warning.json": "done",
}


def judge(path: Path) -> tuple[int, str]:
    """Run the script as seal.sh does; return its exit code and what it says."""
    done = subprocess.run([sys.executable, SCRIPT, path], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_every_recorded_status_is_tried() -> None:
    assert {path.name for path in DATA.iterdir()} == GOOD | set(BAD)


@pytest.mark.parametrize("name", sorted(GOOD))
def test_cloud_init_that_was_content_is_believed(name: str) -> None:
    assert judge(DATA / name) == (0, "")


@pytest.mark.parametrize("name", BAD)
def test_error_of_cloud_init_fails_the_bake_also_a_recoverable_one(name: str) -> None:
    code, said = judge(DATA / name)
    assert code == 1
    assert said.startswith(f"seal: cloud-init ended with `{BAD[name]}`: ")
    assert said.count("\n") == 1
    assert "package_update_upgrade_install" in said
    assert ("'locale'" in said) == ("error" in name)
    assert "apt_pipelining" not in said


@pytest.mark.parametrize(
    ("printed", "why"),
    [
        ("", "did not end within ten minutes"),
        ("......\n", "did not end within ten minutes"),
        (
            "..\nstatus: running\ntime: x\ndetail:\nRunning in stage: init\n",
            "`running`: Running in stage: init",
        ),
        ("status: error\ndetail:\nsays status: done\n", "`error`: says status: done"),
        ("Traceback (most recent call last):\n  File\n", "`Traceback (most recent call last):`: no reason"),
        ('{"status": "running", "errors": []}', "`running`: no reason given"),
        ('{"status": "done", "errors": ["no"]}', "`done`: no"),
        ('{"status": "done", "recoverable_errors": {"ERROR": ["a", "b"]}}', "`done`: ERROR: a; ERROR: b"),
    ],
)
def test_anything_else_is_no_success(printed: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "status"
    path.write_text(printed)
    code, said = judge(path)
    assert code == 1
    assert why in said


def test_seal_asks_it_before_the_state_is_removed() -> None:
    script = (ROOT / "packer/scripts/seal.sh").read_text()
    assert script.index('python3 "$dir/scripts/cloud_init_result.py" "$status"') < script.index(
        "cloud-init clean"
    )

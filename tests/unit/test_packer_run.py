"""Packer is followed, stopped, and believed only when its manifest names what it made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from builder import console, packer_run, workspace
from builder.errors import BuilderError
from builder.packer import Packer, Target
from builder.packer_run import BakeFailed, Built
from builder.workspace import Workspace
from tests.fakes import FakeTools

pytestmark = pytest.mark.allow_programs("setpriv", Path(sys.executable).name)
MANIFEST = """cat >manifest.json <<'JSON'
{"builds": [
  {"name": "relay", "files": [{"name": "../out/ses.qcow2", "size": 5}], "artifact_id": "VM",
   "packer_run_uuid": "2"},
  {"name": "relay", "files": null, "artifact_id": "eu-west-1:ami-1", "packer_run_uuid": "1"}
 ], "last_run_uuid": "%s"}
JSON"""


class Notes(console.Step):
    def __init__(self, interrupt_at: str | None = None) -> None:
        super().__init__("bake", None)
        self.interrupt_at = interrupt_at

    def note(self, text: str) -> None:
        if text == self.interrupt_at:
            raise KeyboardInterrupt


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workspace]:
    with workspace.create(tmp_path / "images", "ses", "b1") as made:
        made.packer.mkdir()
        yield made


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a fake Packer a moment is seen soon; a real one takes minutes."""
    monkeypatch.setattr(packer_run, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(packer_run, "_LAST_WORDS_SECONDS", 0.3)


def run(
    fake_tool: FakeTools,
    work: Workspace,
    script: str,
    step: console.Step | None = None,
    target: Target = "qemu",
) -> Built:
    tool = Packer(fake_tool("packer", script).path, "1.6.6")
    return packer_run.build(tool, work, target=target, step=step or Notes())


def is_alive(pid: int) -> bool:
    """Whether a process goes on running; a killed one may take a moment to end, and waits to be reaped."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        time.sleep(0.05)
    return True


def test_files_of_this_run_are_the_result(fake_tool: FakeTools, work: Workspace) -> None:
    built = run(fake_tool, work, MANIFEST % "2")
    assert built.files == (work.out / "ses.qcow2",)
    assert built.ami_ids == {}


def test_ami_ids_come_by_region(fake_tool: FakeTools, work: Workspace) -> None:
    script = (MANIFEST % "1").replace("eu-west-1:ami-1", "eu-west-1:ami-1,us-east-1:ami-2")
    made = run(fake_tool, work, script, target="ami")
    assert made.ami_ids == {"eu-west-1": "ami-1", "us-east-1": "ami-2"}


def test_success_without_an_artifact_is_a_failure(fake_tool: FakeTools, work: Workspace) -> None:
    with pytest.raises(BakeFailed, match="it wrote no manifest"):
        run(fake_tool, work, "echo '==> Builds finished but no artifacts were created.'")


def test_artifact_of_another_run_does_not_count(fake_tool: FakeTools, work: Workspace) -> None:
    with pytest.raises(BakeFailed, match="its manifest names no artifact"):
        run(fake_tool, work, MANIFEST % "3")


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [
        ("", "is not JSON"),
        ('{"builds": [', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\\377", "is not JSON"),
        ("[]", "is not as Packer writes it"),
        ('{"builds": []}', "is not as Packer writes it: KeyError('last_run_uuid')"),
        ('{"builds": [{"files": []}], "last_run_uuid": "1"}', "is not as Packer writes it"),
        ('{"builds": null, "last_run_uuid": "1"}', "is not as Packer writes it"),
        ('{"builds": [{"packer_run_uuid": "1", "files": [{}]}], "last_run_uuid": "1"}', "is not as Packer"),
        ('{"builds": [{"packer_run_uuid": "1", "files": 5}], "last_run_uuid": "1"}', "is not as Packer"),
        (
            '{"builds": [{"packer_run_uuid": "1", "files": [], "artifact_id": "VM"}], "last_run_uuid": "1"}',
            "names no disk image",
        ),
    ],
)
def test_manifest_that_cannot_be_understood_is_a_failed_bake(
    fake_tool: FakeTools, work: Workspace, manifest: str, complaint: str
) -> None:
    (work.path / "given").write_text(manifest)
    with pytest.raises(BakeFailed, match="manifest") as error:
        run(fake_tool, work, 'printf "$(cat ../given)" >manifest.json')
    assert complaint in error.value.message


def test_artifact_without_an_ami_is_a_failed_bake_on_ec2(fake_tool: FakeTools, work: Workspace) -> None:
    with pytest.raises(BakeFailed, match="names no AMI"):
        run(fake_tool, work, MANIFEST % "2", target="ami")


def test_failure_has_phase_reason_and_timings(fake_tool: FakeTools, work: Workspace) -> None:
    script = """echo '==> qemu.relay: Starting VM, booting disk image'
echo '    qemu.relay: BUILDER-PHASE install'
echo "Build 'qemu.relay' errored after 2 seconds: Script exited with non-zero exit status: 3."
exit 1"""
    with pytest.raises(BakeFailed) as error:
        run(fake_tool, work, script)
    assert error.value.message == (
        "Packer did not make an image (phase `install`, failed with exit code 1): "
        "Script exited with non-zero exit status: 3."
    )
    assert list(error.value.timings) == ["prepare", "boot", "install"]


def test_packer_gets_folders_of_the_run_and_no_credential(
    fake_tool: FakeTools, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    run(fake_tool, work, "env\n" + MANIFEST % "2")
    environment = dict(line.split("=", 1) for line in work.packer_log.read_text().splitlines() if "=" in line)
    assert environment["CHECKPOINT_DISABLE"] == "1"
    assert environment["PACKER_LOG_PATH"] == str(work.debug_log)
    assert environment["PACKER_CACHE_DIR"] == environment["TMPDIR"]
    assert "AWS_SECRET_ACCESS_KEY" not in environment


def test_temporary_files_have_a_short_path_and_are_gone_afterwards(
    fake_tool: FakeTools, tmp_path: Path
) -> None:
    # Packer's plugins put Unix sockets there, whose path may have 107 bytes.
    with workspace.create(tmp_path / ("long" * 30), "ses", "b1") as work:
        work.packer.mkdir()
        run(fake_tool, work, 'echo "at $TMPDIR"; touch "$TMPDIR/x"\n' + MANIFEST % "2")
        used = Path(work.packer_log.read_text().split("at ")[1].split("\n")[0])
    assert len(str(used)) <= 70
    assert not used.exists()


@pytest.mark.parametrize("sign", ["No bootable device.", "Kernel panic - not syncing: VFS", "grub rescue> "])
def test_machine_that_will_never_boot_is_given_up_at_once(
    fake_tool: FakeTools, work: Workspace, sign: str
) -> None:
    script = f"echo '==> qemu.relay: Starting VM, booting disk image'\necho '{sign}' >../serial.log\nsleep 60"
    started = time.monotonic()
    with pytest.raises(BakeFailed, match="the serial console says"):
        run(fake_tool, work, script)
    assert time.monotonic() - started < 20


def test_death_of_qemu_is_noticed_before_ssh_times_out(fake_tool: FakeTools, work: Workspace) -> None:
    fake_tool("qemu-system-x86_64", "sleep 0.7")
    script = "echo '==> qemu.relay: Starting VM, booting disk image'\nqemu-system-x86_64 &\nsleep 60"
    with pytest.raises(BakeFailed, match="QEMU ended before the machine answered SSH"):
        run(fake_tool, work, script)


def test_full_disk_stops_the_bake(
    fake_tool: FakeTools, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer_run, "_LEAST_FREE_BYTES", 1 << 60)
    with pytest.raises(BuilderError, match=r"The disk that holds `.*` is full"):
        run(fake_tool, work, "sleep 60")


def test_interrupt_lets_packer_tidy_up_and_leaves_no_process(fake_tool: FakeTools, work: Workspace) -> None:
    script = """trap 'echo tidied; exit 1' TERM
sleep 61 & echo $! >../grandchild
echo '    qemu.relay: BUILDER-PHASE install'
while :; do sleep 0.1; done"""
    with pytest.raises(KeyboardInterrupt):
        run(fake_tool, work, script, Notes(interrupt_at="installing packages"))
    assert "tidied" in work.packer_log.read_text()
    assert not is_alive(int((work.path / "grandchild").read_text()))


class TwiceInterrupted(Notes):
    """Interrupts, and again a second later, while Packer is given time to tidy up."""

    def note(self, text: str) -> None:
        if text == self.interrupt_at:
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
        super().note(text)


def test_second_interrupt_ends_what_does_not_tidy_up(fake_tool: FakeTools, work: Workspace) -> None:
    script = """trap '' TERM
echo $$ >../pid
echo '    qemu.relay: BUILDER-PHASE install'
while :; do sleep 0.1; done"""
    # A shell's `&` switches it off for the tests.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(fake_tool, work, script, TwiceInterrupted(interrupt_at="installing packages"))
    signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 15
    assert not is_alive(int((work.path / "pid").read_text()))


def test_killed_builder_lets_packer_tidy_up_too(fake_tool: FakeTools, tmp_path: Path) -> None:
    script = """trap 'echo tidied; exit 1' TERM
echo $$ >../../../pid
while :; do sleep 0.1; done"""
    packer = fake_tool("packer", script).path
    killed = f"""
from pathlib import Path
from builder import console, packer_run, workspace
from builder.packer import Packer
with workspace.create(Path({str(tmp_path)!r}) / "images", "ses", "b1") as work:
    work.packer.mkdir()
    packer = Packer(Path({str(packer)!r}), "1.6.6")
    packer_run.build(packer, work, target="qemu", step=console.Step("bake", None))
"""
    pid = tmp_path / "images" / "pid"
    with subprocess.Popen([sys.executable, "-c", killed]) as builder:
        deadline = time.monotonic() + 20
        while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.05)
        builder.kill()
    assert not is_alive(int(pid.read_text()))
    assert "tidied" in (tmp_path / "images/.work/ses-b1/packer.log").read_text()

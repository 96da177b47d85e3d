"""Relays that outlive the command that started them, around a program that behaves like QEMU."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest

from builder import disk_image, process, workspace
from builder.errors import BuilderError
from builder.launch import GuestError
from builder.launch.accelerator import Accelerator
from builder.launch.instances import (
    Instance,
    find_instance,
    launch_instance,
    list_instances,
    require_replaceable,
    start_instance,
    stop_instance,
    wait_instance_ready,
)
from tests.fakes import FakeTools
from tests.unit.test_launch_guest import Order, image, order

__all__ = ["image", "order"]

TCG = Accelerator("tcg", "a test")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "instances"
    yield folder
    for instance in list_instances(folder):
        stop_instance(instance, delete=True, timeout_seconds=0)


def _launch(image: Path, folder: Path) -> Instance:
    return launch_instance(image, user_data="#cloud-config\n", folder=folder, accelerator=TCG)


def test_an_instance_is_known_by_its_file(order: Order, image: Path, folder: Path) -> None:
    order()
    started = _launch(image, folder)
    assert started.status == "running"
    assert wait_instance_ready(started, timeout_seconds=10) < 10
    assert list_instances(folder) == [started]
    state = json.loads((folder / f"{started.id}.json").read_text())
    assert state["pid"] == started.pid
    assert state["ports"]["25"] == started.smtp_address[1]


def test_its_disk_is_not_one_that_is_thrown_away(order: Order, image: Path, folder: Path) -> None:
    qemu = order()
    _launch(image, folder)
    assert any("cache=writeback" in word for word in qemu.calls[0])
    assert not any("unsafe" in word for word in qemu.calls[0])


def test_a_stopped_instance_keeps_its_disk_and_starts_again_on_it(
    order: Order, image: Path, folder: Path
) -> None:
    order()
    started = _launch(image, folder)
    stop_instance(started, timeout_seconds=10)
    assert started.status == "stopped"
    assert started.disk.exists()
    again = start_instance(find_instance(folder, started.id))
    assert again.status == "running"
    assert again.pid != started.pid
    assert again.ports == started.ports


def test_a_deleted_instance_leaves_no_file(order: Order, image: Path, folder: Path) -> None:
    order()
    stop_instance(_launch(image, folder), delete=True, timeout_seconds=10)
    assert list(folder.iterdir()) == []


def test_an_instance_that_ignores_the_power_button_is_ended(order: Order, image: Path, folder: Path) -> None:
    order(ignores_power_button=True)
    started = _launch(image, folder)
    stop_instance(started, timeout_seconds=0.5)
    assert started.status == "stopped"


def test_an_end_that_nobody_takes_note_of_is_an_end(
    order: Order, image: Path, folder: Path, fake_tool: FakeTools
) -> None:
    order()
    started = _launch(image, folder)
    # As the first process of a container often is: its child stays a zombie. It answers with the child's id.
    careless = fake_tool("careless", 'sleep 60 >/dev/null & exec sed -u "s/.*/$!/"')
    with subprocess.Popen([careless.path], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as parent:
        assert parent.stdin
        assert parent.stdout
        parent.stdin.write("who?\n")
        child = psutil.Process(int(parent.stdout.readline()))
        stop_instance(replace(started, pid=child.pid, pid_created=child.create_time()), timeout_seconds=0)
        assert child.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_took_over_the_number_is_left_alone(order: Order, image: Path, folder: Path) -> None:
    order()
    started = _launch(image, folder)
    mine = psutil.Process()
    other = replace(started, pid=os.getpid(), pid_created=mine.create_time() - 3600)
    assert other.status == "stopped"
    stop_instance(other, timeout_seconds=0.1)
    assert mine.is_running()


def test_a_replaced_image_is_not_built_upon(order: Order, image: Path, folder: Path) -> None:
    order()
    started = _launch(image, folder)
    stop_instance(started, timeout_seconds=10)
    image.write_bytes(b"QFI\xfb another")
    with pytest.raises(BuilderError, match="gone or was replaced"):
        start_instance(started)


@pytest.fixture
def baked(tmp_path: Path) -> Path:
    """The disk of an image that was baked as NAME `ses`; its relays have their place beside it."""
    return _bake(tmp_path / "images", b"QFI\xfb first")


@pytest.fixture
def beside(baked: Path) -> Iterator[Path]:
    folder = baked.parent.parent / workspace.INSTANCES
    yield folder
    for instance in list_instances(folder):
        stop_instance(instance, delete=True, timeout_seconds=0)


def _bake(images_dir: Path, disk: bytes) -> Path:
    with workspace.create(images_dir, "ses", "b1") as work:
        (work.path / "relay.qcow2").write_bytes(disk)
        return work.finish() / "relay.qcow2"


def test_a_new_bake_leaves_the_disk_of_a_launched_relay_whole(
    order: Order, baked: Path, beside: Path
) -> None:
    order()
    started = _launch(baked, beside)
    stop_instance(started, timeout_seconds=10)
    require_replaceable(baked.parent.parent, "ses")
    _bake(baked.parent.parent, b"QFI\xfb second, another")
    again = start_instance(find_instance(beside, started.id))
    assert again.status == "running"
    assert again.backing_file.read_bytes() == b"QFI\xfb first"


def test_the_disk_builds_upon_the_relays_own_link(order: Order, image: Path, folder: Path) -> None:
    order()
    started = _launch(image, folder)
    assert started.backing_file.parent == started.disk.parent
    assert started.backing_file.samefile(image)


@pytest.mark.allow_programs("qemu-img")
def test_the_queue_is_read_through_the_link_when_the_image_is_gone(
    order: Order, image: Path, folder: Path, tmp_path: Path
) -> None:
    order()
    (tmp_path / "fake-tools/qemu-img").unlink()
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"])
    started = _launch(image, folder)
    image.unlink()
    assert disk_image.read(started.backing_file, disk_image.BAKED).format == "qcow2"
    process.run(["qemu-img", "check", "-q", "-U", started.disk])
    chain = process.run(["qemu-img", "info", "-U", "--backing-chain", "--output=json", started.disk]).stdout
    assert len(json.loads(chain)) == 2


def _no_link(_source: Path, _target: Path) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def test_an_image_that_cannot_be_linked_is_not_replaced_under_a_relay(
    order: Order, baked: Path, beside: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    order()
    monkeypatch.setattr(os, "link", _no_link)
    started = _launch(baked, beside)
    assert started.backing_file == baked
    assert "keep it as it is" in " ".join(capsys.readouterr().err.split())
    require_replaceable(baked.parent.parent, "another")
    with pytest.raises(BuilderError, match=f"`{started.id}`") as caught:
        require_replaceable(baked.parent.parent, "ses")
    assert f"`builder instances delete {started.id}`" in str(caught.value.hint)
    assert "`--name`" in str(caught.value.hint)
    stop_instance(started, delete=True, timeout_seconds=10)
    require_replaceable(baked.parent.parent, "ses")


def test_a_relay_of_an_older_builder_starts_and_keeps_its_image(
    order: Order, baked: Path, beside: Path
) -> None:
    order()
    started = _launch(baked, beside)
    stop_instance(started, timeout_seconds=10)
    # As an older one left it: nothing about a link, and none there.
    state = json.loads((beside / f"{started.id}.json").read_text())
    del state["is_linked"]
    (beside / f"{started.id}.json").write_text(json.dumps(state))
    started.backing_file.unlink()
    with pytest.raises(BuilderError, match="cannot be replaced"):
        require_replaceable(baked.parent.parent, "ses")
    assert start_instance(find_instance(beside, started.id)).status == "running"


def test_a_start_that_fails_leaves_nothing(order: Order, image: Path, folder: Path) -> None:
    order(dies="qemu: no such machine")
    with pytest.raises(GuestError, match="no such machine"):
        _launch(image, folder)
    assert list(folder.iterdir()) == []


def test_an_instance_that_stopped_by_itself_is_told_from_a_slow_one(
    order: Order, image: Path, folder: Path
) -> None:
    order(readyz_status=503, dies_later=0.5)
    with pytest.raises(GuestError, match="has stopped"):
        wait_instance_ready(_launch(image, folder), timeout_seconds=10)


def test_a_slow_instance_is_named_with_its_reason(order: Order, image: Path, folder: Path) -> None:
    order(readyz_status=503, readyz="no secret")
    with pytest.raises(GuestError, match=r"\(/readyz: 503 no secret\)"):
        wait_instance_ready(_launch(image, folder), timeout_seconds=1)


def test_an_unknown_id_lists_the_known_ones(order: Order, image: Path, folder: Path) -> None:
    order()
    started = _launch(image, folder)
    assert find_instance(folder, started.id[:6]) == started
    with pytest.raises(BuilderError, match=f"there is no instance `nothing`; known: `{started.id}`"):
        find_instance(folder, "nothing")


def test_an_empty_id_means_no_instance(order: Order, image: Path, folder: Path) -> None:
    order()
    started = _launch(image, folder)
    with pytest.raises(BuilderError, match=f"there is no instance ``; known: `{started.id}`"):
        find_instance(folder, "")


SOUND = {
    "id": "i-1", "image": "relay.qcow2", "image_stamp": [1, 2], "folder": "/", "socket": "/tmp/builder-x/qmp",
    "ports": {"22": 1, "25": 2, "8025": 3}, "accelerator": {"name": "tcg", "reason": "a test"},
    "memory_mib": 1, "cpus": 1, "started": "2026-11-27T00:00:00", "pid": 0, "pid_created": 0.0, "schema": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "spoilt",
    [
        "{",
        "{}",
        "[]",
        "\udcff",
        json.dumps({**SOUND, "ports": []}),
        json.dumps({**SOUND, "ports": {"25": 2}}),
        json.dumps({**SOUND, "ports": {"25": "smtp"}}),
        json.dumps({**SOUND, "pid": "12"}),
        json.dumps({**SOUND, "id": "i-2"}),
        json.dumps({**SOUND, "schema": 2}),
        json.dumps({**SOUND, "more": 2}),
    ],
)
def test_a_spoilt_state_file_is_warned_about(
    spoilt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "i-1.json").write_bytes(spoilt.encode(errors="surrogateescape"))
    assert list_instances(tmp_path) == []
    said = " ".join(capsys.readouterr().err.split())
    assert f"`{tmp_path}/i-1.json` is not the state of a relay" in said


def test_a_state_file_cannot_name_other_folders_to_delete(tmp_path: Path) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "instances"
    precious.mkdir()
    (precious / "file").touch()
    folder.mkdir()
    (folder / "i-1").mkdir()
    edited = {**SOUND, "folder": str(precious), "socket": str(precious / "qmp")}
    (folder / "i-1.json").write_text(json.dumps(edited))

    stop_instance(find_instance(folder, "i-1"), delete=True)

    assert (precious / "file").exists()
    assert list(folder.iterdir()) == []


def test_what_a_killed_launch_left_is_cleared_by_the_next(order: Order, image: Path, folder: Path) -> None:
    order()
    (folder / "i-0").mkdir(parents=True)
    (folder / "i-0" / "disk.qcow2").touch()
    started = _launch(image, folder)
    assert [path.name for path in folder.glob("i-*/")] == [started.id]
    assert not (folder / "i-0").exists()

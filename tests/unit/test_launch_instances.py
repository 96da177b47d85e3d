"""Relays that outlive the command that started them, around a program that behaves like QEMU."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from builder.errors import BuilderError
from builder.launch import GuestError
from builder.launch.accelerator import Accelerator
from builder.launch.instances import (
    Instance,
    find_instance,
    launch_instance,
    list_instances,
    start_instance,
    stop_instance,
    wait_instance_ready,
)
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


def test_a_start_that_fails_leaves_nothing(order: Order, image: Path, folder: Path) -> None:
    order(dies="qemu: no such machine")
    with pytest.raises(GuestError, match="no such machine"):
        _launch(image, folder)
    assert [path for path in folder.iterdir() if not path.name.endswith(".lock")] == []


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


def test_a_spoilt_state_file_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "i-1.json").write_text("{")
    (tmp_path / "i-2.json").write_text("{}")
    assert list_instances(tmp_path) == []

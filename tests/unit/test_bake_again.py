"""An image that is there already: answered, made meanwhile by another bake, or in use by launched relays."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from builder import record as records
from builder import workspace
from builder.bake import IMAGE, BakeRequest, bake, plan
from builder.config import load_config
from builder.errors import BuilderError
from builder.launch.instances import list_instances, stop_instance
from tests.fakes import FakeTool, FakeTools
from tests.unit.test_launch_guest import Order, order
from tests.unit.test_launch_instances import _launch, _no_link

__all__ = ["order"]

pytestmark = pytest.mark.allow_programs("setpriv", Path(sys.executable).name)

DISK = b"QFI\xfb a relay"


@pytest.fixture
def packer(fake_tool: FakeTools, order: Order) -> FakeTool:
    order()
    return fake_tool("packer", "echo Packer v1.6.6")


@pytest.fixture
def request_(tmp_path: Path) -> Iterator[BakeRequest]:
    base = tmp_path / "base.qcow2"
    base.write_bytes(b"QFI\xfb a base")
    config = load_config(None, {"preset": "ses", "region": "us-east-1"})
    request = BakeRequest(
        config=config,
        base=str(base),
        release="debian-12",
        images_dir=tmp_path / "images",
        profile="none",
        accelerator="tcg",
    )
    yield request
    for instance in list_instances(request.images_dir / workspace.INSTANCES):
        stop_instance(instance, delete=True, timeout_seconds=0)


def _put(request: BakeRequest, **changes: object) -> Path:
    """Put an image in place as a bake of this request would."""
    planned = plan(request)
    folder = request.images_dir / planned.name
    folder.mkdir(parents=True)
    (folder / IMAGE).write_bytes(DISK)
    record = records.ImageRecord(
        name=planned.name,
        bake_id="b1",
        key=planned.inputs.key,
        status="baked",
        preset="ses",
        base=records.Base(name="base", release="debian-12", digest="1" * 64, source="given"),
        inputs=planned.inputs,
        artifact=records.Artifact(file=IMAGE, sha256=hashlib.sha256(DISK).hexdigest(), size=len(DISK)),
    )
    records.save(record.model_copy(update=changes), folder)
    return folder


def _builds(packer: FakeTool) -> list[list[str]]:
    return [call for call in packer.calls if call != ["version"]]


def test_a_bake_that_waited_for_another_answers_from_its_record(
    packer: FakeTool, request_: BakeRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    name = plan(request_).name
    with ThreadPoolExecutor(1) as threads:
        with workspace.hold(request_.images_dir, name):
            waiting = threads.submit(bake, replace(request_, wait_seconds=60))
            while not packer.calls and not waiting.done():  # it has planned, and found nothing
                time.sleep(0.01)
            _put(request_)
        folder, record = waiting.result()
    assert (folder, record.bake_id) == (request_.images_dir / name, "b1")
    assert _builds(packer) == []
    assert "was made from these same inputs" in " ".join(capsys.readouterr().err.split())
    assert list((request_.images_dir / ".work").iterdir()) == []


def test_a_changed_image_is_baked_anew(
    packer: FakeTool, request_: BakeRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _put(request_)
    (folder / IMAGE).write_bytes(DISK.upper())
    with pytest.raises(BuilderError):  # by a Packer that does nothing
        bake(request_)
    assert _builds(packer) != []
    assert "so it does not count as image" in " ".join(capsys.readouterr().err.split())


def test_an_image_that_a_relay_needs_is_not_replaced_and_nothing_is_baked(
    packer: FakeTool, request_: BakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _put(request_)
    monkeypatch.setattr(os, "link", _no_link)
    started = _launch(folder / IMAGE, request_.images_dir / workspace.INSTANCES)
    with pytest.raises(BuilderError, match=f"cannot be replaced: the disks of `{started.id}`"):
        bake(replace(request_, force=True))
    assert _builds(packer) == []
    assert (folder / IMAGE).read_bytes() == DISK

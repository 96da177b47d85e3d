"""A bake starts from an overlay on the base, and ends with one file of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import disk_image, packer_qemu, process, workspace
from builder.errors import BuilderError
from tests.fakes import FakeTools

pytestmark = pytest.mark.allow_programs("qemu-img")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.qcow2"
    process.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "8M"])
    return path


def test_overlay_names_its_base_and_the_bases_format(base: Path, tmp_path: Path) -> None:
    overlay = packer_qemu.make_overlay(base, tmp_path / "start.qcow2")
    info = json.loads(process.run(["qemu-img", "info", "--output=json", overlay]).stdout)
    assert info["backing-filename"] == str(base)
    assert info["backing-filename-format"] == "qcow2"
    assert info["virtual-size"] == 8 << 20


def test_raw_base_does_too_and_the_disk_may_be_larger(tmp_path: Path) -> None:
    raw = tmp_path / "base.img"
    raw.write_bytes(b"\0" * (1 << 20))
    overlay = packer_qemu.make_overlay(raw, tmp_path / "start.qcow2", disk_gib=1)
    info = json.loads(process.run(["qemu-img", "info", "--output=json", overlay]).stdout)
    assert (info["backing-filename-format"], info["virtual-size"]) == ("raw", 1 << 30)


def test_flattened_image_stands_alone_and_no_half_file_is_left(base: Path, tmp_path: Path) -> None:
    overlay = packer_qemu.make_overlay(base, tmp_path / "start.qcow2")
    image = packer_qemu.flatten(overlay, tmp_path / "relay.qcow2")
    base.unlink()
    flat = disk_image.read(image, disk_image.BAKED)
    assert (flat.format, flat.disk_bytes) == ("qcow2", 8 << 20)
    assert not (tmp_path / ".relay.qcow2.partial").exists()


def test_disk_that_fills_up_leaves_no_half_file(fake_tool: FakeTools, tmp_path: Path) -> None:
    tool = 'for last; do :; done; echo half >"$last"; echo "write: No space left on device" >&2; exit 1'
    fake_tool("qemu-img", tool)
    with pytest.raises(BuilderError, match=f"The disk that holds `{tmp_path}` is full"):
        packer_qemu.flatten(tmp_path / "start.qcow2", tmp_path / "relay.qcow2")
    assert not (tmp_path / ".relay.qcow2.partial").exists()
    assert not (tmp_path / "relay.qcow2").exists()


def test_values_are_absolute_paths_and_two_ports(tmp_path: Path) -> None:
    with workspace.create(tmp_path / "images", "ses", "b1") as work:
        work.write({"seed/user-data": "", "seed/meta-data": ""})
        values = packer_qemu.values(work, work.path / "start.qcow2", accelerator="tcg")
    assert [Path(path).name for path in values["seed_files"]] == ["meta-data", "user-data"]
    assert all(Path(values[name]).is_absolute() for name in ("disk", "payload", "manifest", "serial_log"))
    assert values["ssh_port"] != values["forwarded_port"]

"""An image is looked at before anything is built upon it, by the real qemu-img."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import disk_image, process
from builder.disk_image import BAKED, BASE, Role
from builder.errors import BuilderError

pytestmark = pytest.mark.allow_programs("qemu-img")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    raw, path = tmp_path / "disk.raw", tmp_path / "relay.qcow2"
    raw.write_bytes(b"\x01" * 2**20)
    process.run(["qemu-img", "convert", "-O", "qcow2", raw, path])
    return path


def test_a_sound_image_is_described(image: Path) -> None:
    found = disk_image.check(image, BAKED)
    assert (found.path, found.format, found.disk_bytes) == (image, "qcow2", 2**20)


@pytest.mark.parametrize(
    ("role", "noun", "hint"), [(BASE, "base image", "builder base list"), (BAKED, "image", "builder images")]
)
def test_a_missing_image_points_to_the_list(role: Role, noun: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match=f"The {noun} `.*none.qcow2` does not exist") as caught:
        disk_image.read(tmp_path / "none.qcow2", role)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(("role", "hint"), [(BASE, "checksum"), (BAKED, "builder bake --force")])
def test_an_image_that_was_cut_short_is_refused(role: Role, hint: str, image: Path) -> None:
    with image.open("r+b") as stream:
        stream.truncate(image.stat().st_size // 2)
    with pytest.raises(BuilderError, match="is truncated or corrupt: ") as caught:
        disk_image.check(image, role)
    assert hint in (caught.value.hint or "")


def test_an_image_with_a_broken_table_is_refused(image: Path) -> None:
    content = bytearray(image.read_bytes())
    content[40:48] = (2**40).to_bytes(8, "big")  # the offset of the L1 table
    image.write_bytes(content)
    with pytest.raises(BuilderError, match="is truncated or corrupt: "):
        disk_image.check(image, BAKED)


def test_the_errors_that_qemu_img_finds_are_counted_and_not_listed(image: Path) -> None:
    content = bytearray(image.read_bytes())
    content[0x20000:0x30000] = b"\xaa" * 0x10000  # tables of references
    image.write_bytes(content)
    with pytest.raises(BuilderError) as caught:
        disk_image.check(image, BAKED)
    assert "\n" not in caught.value.message
    assert "is truncated or corrupt: " in caught.value.message


def test_a_corrupt_header_is_refused(image: Path) -> None:
    image.write_bytes(b"QFI\xfb" + b"\xff" * 600)
    with pytest.raises(BuilderError, match="is truncated or corrupt: Could not open"):
        disk_image.read(image, BASE)


def test_a_page_instead_of_an_image_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "relay.qcow2"
    page.write_text("<html>404</html>" * 100)
    with pytest.raises(BuilderError, match="is not a disk image: neither qcow2 nor a raw disk"):
        disk_image.check(page, BAKED)


def test_an_overlay_names_its_image_and_the_images_format(image: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    disk_image.create_overlay(disk_image.read(image, BASE), overlay, disk_bytes=2**21)
    info = json.loads(process.run(["qemu-img", "info", "--output=json", overlay]).stdout)
    assert info["backing-filename"] == str(image)
    assert info["backing-filename-format"] == "qcow2"
    assert info["virtual-size"] == 2**21


def test_an_overlay_and_its_image_may_be_moved_together(image: Path, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    home.mkdir()
    image.rename(home / "image")
    disk_image.create_overlay(disk_image.read(home / "image", BASE), home / "disk.qcow2", moves_along=True)
    home.rename(elsewhere)
    chain = process.run(["qemu-img", "info", "--backing-chain", "--output=json", elsewhere / "disk.qcow2"])
    assert len(json.loads(chain.stdout)) == 2


def test_an_image_that_needs_another_file_says_how_to_make_it_one(image: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    disk_image.create_overlay(disk_image.read(image, BASE), overlay)
    with pytest.raises(BuilderError, match="is only the changes to") as caught:
        disk_image.read(overlay, BASE)
    assert f"qemu-img convert -O qcow2 {overlay}" in (caught.value.hint or "")

"""Which image a name or a path stands for, and what is refused."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from builder import base
from builder.errors import BuilderError, ToolError
from tests.fakes import FakeTools
from tests.unit.test_base_store import make_base

DISK = b"\x00" * 510 + b"\x55\xaa" + b"\x01" * 1000


def qemu_img(info: dict[str, object], check: str = "exit 0") -> str:
    """Write a `qemu-img` that answers `info` and `check`."""
    return f"case $1 in info) echo '{json.dumps(info)}';; check) {check};; esac"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "my-base.qcow2"
    path.write_bytes(DISK)
    return path


@pytest.fixture(autouse=True)
def _qcow2(fake_tool: FakeTools) -> None:
    fake_tool("qemu-img", qemu_img({"format": "qcow2", "virtual-size": 1}))


def test_all_bases_are_listed_with_what_is_cached() -> None:
    cached = make_base()
    known = {(each.name, each.arch): each for each in base.list_bases()}
    assert len(known) == 11
    assert known["debian-12", "amd64"].cached == cached
    assert known["debian-12", "amd64"].sha256 == cached.sha256
    assert known["debian-12", "amd64"].source == "builder base build debian-12"
    assert known["ubuntu-24.04", "arm64"].cached is None
    assert known["ubuntu-24.04", "arm64"].source.endswith("ubuntu-24.04-server-cloudimg-arm64.img")


def test_a_built_base_is_found_by_name() -> None:
    cached = make_base()
    assert base.resolve("debian-12", arch="amd64") == cached


def test_an_arm64_machine_bakes_from_what_its_qemu_boots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    cached = make_base()
    assert base.resolve("debian-12") == cached


@pytest.mark.allow_programs(Path(sys.executable).name)
def test_a_cached_base_is_found_without_what_downloads_one() -> None:
    make_base()
    script = (
        "import sys; from builder import base; base.resolve('debian-12', arch='amd64'); print(*sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert {"requests", "urllib3", "stamina"} & set(done.stdout.split()) == set()


def test_a_base_that_was_not_built_yet_says_how() -> None:
    with pytest.raises(BuilderError) as caught:
        base.resolve("debian-13", arch="amd64")
    assert caught.value.hint == "Run `builder base build debian-13`"


def test_a_cached_base_that_changed_on_disk_is_refused() -> None:
    cached = make_base()
    cached.path.write_bytes(b"something else")
    with pytest.raises(BuilderError, match="has changed on disk since it was verified") as caught:
        base.resolve("debian-12", arch="amd64")
    assert f"rm -r {cached.path.parent}" in (caught.value.hint or "")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(BuilderError, match="There is no release `ubuntu-24.4`") as caught:
        base.resolve("ubuntu-24.4")
    assert "`ubuntu-24.04`" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["missing.qcow2", "./missing", "/nowhere/missing.img"])
def test_what_looks_like_a_path_is_a_file(text: str) -> None:
    with pytest.raises(BuilderError, match="does not exist"):
        base.resolve(text)


def test_a_given_file_is_recorded_with_its_digest(image: Path) -> None:
    found = base.resolve(str(image))
    assert found.sha256 == hashlib.sha256(DISK).hexdigest()
    assert found.size_bytes == len(DISK)
    assert found.path == image
    assert (found.verified, found.release, found.arch) == ("given", None, "amd64")


@pytest.mark.parametrize(
    ("file_name", "release", "arch"),
    [
        ("noble-server-cloudimg-arm64.img", "ubuntu-24.04", "arm64"),
        ("ubuntu-20.04-minimal-cloudimg-amd64.img", "ubuntu-20.04", "amd64"),
        ("debian-12-generic-amd64.qcow2", "debian-12", "amd64"),
        ("trixie_aarch64.raw", "debian-13", "arm64"),
    ],
)
def test_release_and_architecture_are_read_off_a_file_name(
    tmp_path: Path, file_name: str, release: str, arch: str
) -> None:
    (tmp_path / file_name).write_bytes(DISK)
    found = base.resolve(tmp_path / file_name)
    assert (found.release, found.arch) == (release, arch)


def test_what_the_user_says_of_a_file_wins(image: Path) -> None:
    found = base.resolve(image, release="debian-13", arch="amd64")
    assert (found.release, found.arch) == ("debian-13", "amd64")
    with pytest.raises(BuilderError, match="There is no release"):
        base.resolve(image, release="debian-99")


def test_a_copy_of_a_cached_base_is_known_by_its_digest(tmp_path: Path) -> None:
    cached = make_base(DISK)
    copy = tmp_path / "copy.qcow2"
    copy.write_bytes(DISK)
    found = base.resolve(copy)
    assert (found.release, found.verified, found.path) == (cached.release, "built", copy)


def test_a_folder_is_not_an_image(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match="is a folder, not an image"):
        base.resolve(tmp_path)


def test_a_corrupt_image_is_told_in_one_line(image: Path, fake_tool: FakeTools) -> None:
    noise = "for n in 1 2 3; do echo ERROR cluster $n >&2; done; "
    check = f"{noise}echo 499 errors were found on the image.; exit 2"
    fake_tool("qemu-img", qemu_img({"format": "qcow2"}, check))
    with pytest.raises(BuilderError) as caught:
        base.resolve(image)
    assert caught.value.message.endswith("is truncated or corrupt: 499 errors were found on the image.")


def test_a_header_that_is_cut_off_is_told(image: Path, fake_tool: FakeTools) -> None:
    fake_tool("qemu-img", "echo \"qemu-img: Could not open 'x': qcow2 header too short\" >&2; exit 1")
    with pytest.raises(BuilderError, match="truncated or corrupt: Could not open 'x': qcow2 header"):
        base.resolve(image)


def test_leaked_clusters_are_no_reason_to_refuse(image: Path, fake_tool: FakeTools) -> None:
    fake_tool("qemu-img", qemu_img({"format": "qcow2"}, "exit 3"))
    assert base.resolve(image).verified == "given"


def test_a_page_instead_of_an_image_is_recognised(image: Path, fake_tool: FakeTools) -> None:
    fake_tool("qemu-img", qemu_img({"format": "raw"}))
    image.write_text("<html>Not found</html>")
    with pytest.raises(BuilderError, match="neither qcow2 nor a raw disk with a boot sector"):
        base.resolve(image)


def test_a_raw_disk_is_taken(image: Path, fake_tool: FakeTools) -> None:
    fake_tool("qemu-img", qemu_img({"format": "raw"}, "exit 1"))
    assert base.resolve(image).size_bytes == len(DISK)


def test_another_format_comes_with_the_command_that_converts_it(image: Path, fake_tool: FakeTools) -> None:
    fake_tool("qemu-img", qemu_img({"format": "vmdk"}))
    with pytest.raises(BuilderError, match="in the format `vmdk`") as caught:
        base.resolve(image)
    assert "qemu-img convert -O qcow2" in (caught.value.hint or "")


def test_an_image_that_needs_another_file_is_refused(image: Path, fake_tool: FakeTools) -> None:
    fake_tool("qemu-img", qemu_img({"format": "qcow2", "backing-filename": "parent.img"}))
    with pytest.raises(BuilderError, match="only the changes to `parent.img`"):
        base.resolve(image)


def test_without_qemu_img_its_package_is_named(image: Path, fake_tool: FakeTools) -> None:
    (fake_tool.folder / "qemu-img").unlink()
    fake_tool.only()
    with pytest.raises(ToolError) as caught:
        base.resolve(image)
    assert "apt-get install qemu-utils" in (caught.value.hint or "")

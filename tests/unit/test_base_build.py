"""Building a base: what is checked first, what is left behind when it fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder import base_build, base_disk, base_packages, base_rootfs, base_store
from builder.base_packages import Suite
from builder.errors import BuilderError, CommandError, ToolError
from tests.fakes import FakeTools
from tests.unit.test_base_store import make_base

SUITE = Suite("http://mirror.example/debian/", "bookworm", ("main",), None)
UPDATES = Suite("http://mirror.example/debian/", "bookworm-updates", ("main",), None)
TOOLS = ("mmdebstrap", "sfdisk", "mke2fs", "mformat", "qemu-img", "zstd")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, fake_tool: FakeTools) -> FakeTools:
    """A machine that has all that is needed, with a mirror that lacks updates."""
    for tool in TOOLS:
        fake_tool(tool)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(base_store, "host_arch", lambda: "amd64")
    monkeypatch.setattr(base_packages, "suites", lambda _release, mirror: [SUITE, UPDATES])
    monkeypatch.setattr(base_packages, "published", lambda *_arguments: ([SUITE], 7))
    return fake_tool


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Replace the steps that need root: `install` is given, the others write what is expected of them."""

    def write(path: Path, text: str) -> None:
        path.write_text(text)

    def replace(install: Callable[..., None]) -> None:
        monkeypatch.setattr(base_rootfs, "install", install)
        monkeypatch.setattr(base_rootfs, "installed", lambda _root: {"bash": "5.2"})
        monkeypatch.setattr(base_rootfs, "make_like_cloud_image", lambda *_arguments: None)
        monkeypatch.setattr(base_rootfs, "pack", lambda _root, path, epoch: write(path, "tar"))
        monkeypatch.setattr(base_disk, "write_boot_files", lambda *_arguments: None)
        monkeypatch.setattr(base_disk, "kernel_version", lambda _root: "6.1")
        monkeypatch.setattr(base_disk, "make_disk", lambda _root, disk, *_rest, epoch: write(disk, "raw"))
        monkeypatch.setattr(base_disk, "to_qcow2", lambda _disk, image: write(image, "qcow2"))

    return replace


def install(_release: object, _suites: object, root: Path, **_rest: object) -> None:
    root.mkdir()


def left() -> list[str]:
    return sorted(
        path.name for path in base_store.bases_folder().iterdir() if not path.name.startswith(".lock-")
    )


def test_a_built_base_is_in_the_cache_with_its_packages(
    machine: FakeTools, steps: Callable[[Callable[..., None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    steps(install)
    base = base_build.build("debian-12")
    assert (base.name, base.verified, base.arch) == ("debian-12", "built", "amd64")
    assert base.source == "packages from http://mirror.example/debian/"
    assert base_store.find("debian-12", "amd64") == base
    assert left() == [base.sha256]
    record = (base.path.parent / "base.json").read_text()
    assert '"bash": "5.2"' in record
    assert '"kernel": "6.1"' in record
    assert base_build.rootfs_tar("debian-12").read_text() == "tar"
    assert "has no `bookworm-updates`: the base goes without these updates" in capsys.readouterr().err


def test_ensure_builds_only_what_is_not_there(
    machine: FakeTools, steps: Callable[[Callable[..., None]], None]
) -> None:
    steps(install)
    first = base_build.ensure("debian-12")
    steps(lambda *_arguments, **_rest: pytest.fail("built again"))
    assert base_build.ensure("debian-12") == first


def test_a_cached_base_needs_neither_root_nor_tools(
    fake_tool: FakeTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tool.only()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    cached = make_base()
    assert base_build.ensure("debian-12") == cached


def test_a_second_build_waits_for_the_first_and_takes_its_result(
    machine: FakeTools, steps: Callable[[Callable[..., None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    started, go_on = threading.Event(), threading.Event()
    built: list[int] = []

    def slowly(_release: object, _suites: object, root: Path, **_rest: object) -> None:
        built.append(1)
        root.mkdir()
        started.set()
        assert go_on.wait(10)

    steps(slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(base_build.ensure, "debian-12")
        assert started.wait(10)
        second = pool.submit(base_build.ensure, "debian-12")
        while "Another process is building debian-12" not in capsys.readouterr().err:
            time.sleep(0.01)
        go_on.set()
        assert first.result(10) == second.result(10)
    assert built == [1]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), BuilderError),
        (
            CommandError("x", argv=["x"], returncode=1, output="No space left on device", hint=None),
            BuilderError,
        ),
    ],
)
def test_a_build_that_fails_leaves_nothing(
    machine: FakeTools,
    steps: Callable[[Callable[..., None]], None],
    raised: BaseException,
    expected: type[BaseException],
) -> None:
    def fail(_release: object, _suites: object, root: Path, **_rest: object) -> None:
        root.mkdir()
        (root / "half").write_text("half")
        raise raised

    steps(fail)
    with pytest.raises(expected):
        base_build.build("debian-12")
    assert left() == []


def test_a_full_disk_is_told_with_the_way_out(
    machine: FakeTools, steps: Callable[[Callable[..., None]], None]
) -> None:
    def fail(*_arguments: object, **_rest: object) -> None:
        raise OSError(28, "No space left on device", "/cache/disk.raw")

    steps(fail)
    with pytest.raises(BuilderError, match="No space left on device: `/cache/disk.raw`") as caught:
        base_build.build("debian-12")
    assert "BUILDER_CACHE" in (caught.value.hint or "")


def test_a_nearly_full_disk_is_found_before_the_build(
    machine: FakeTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 2 * 10**9})
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)
    with pytest.raises(BuilderError, match="needs 3 GB while it is built, 2.0 GB are free"):
        base_build.build("debian-12")


def test_all_missing_tools_are_named_at_once(machine: FakeTools) -> None:
    for tool in ("mmdebstrap", "mformat"):
        (machine.folder / tool).unlink()
    machine.only()
    with pytest.raises(ToolError, match="`mmdebstrap`, `mformat`") as caught:
        base_build.build("debian-12")
    assert caught.value.hint == "Run `apt-get install mmdebstrap mtools`"


def test_only_root_can_build(machine: FakeTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BuilderError, match="by root only") as caught:
        base_build.build("debian-12")
    assert caught.value.hint == "Run `sudo builder base build debian-12`"


def test_another_architecture_cannot_build(machine: FakeTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_store, "host_arch", lambda: "arm64")
    with pytest.raises(BuilderError, match="on amd64 only; this machine is arm64"):
        base_build.build("debian-12")


def test_an_unknown_release_is_refused() -> None:
    with pytest.raises(BuilderError, match="There is no release `debian-99`"):
        base_build.build("debian-99")


def test_a_root_file_system_that_was_not_built_says_how(machine: FakeTools) -> None:
    with pytest.raises(BuilderError) as caught:
        base_build.rootfs_tar("debian-13")
    assert caught.value.hint == "Run `builder base build debian-13`"

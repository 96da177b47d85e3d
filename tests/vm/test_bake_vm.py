"""Real bakes: what lies in an image's folder, other releases, and every way to fail half-way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from builder import base_build, process
from builder.bake import IMAGE, BakeRequest, bake
from builder.config import RelayConfig, load_config
from builder.errors import BuilderError
from builder.packer import Packer
from builder.record import RECORD, ImageRecord
from builder.sbom import SBOM
from tests.rendered import EVERYTHING, WITH_OAUTH
from tests.vm.conftest import note_bake
from tests.waiting import wait_until

pytestmark = [pytest.mark.vm, pytest.mark.timeout(3600)]


def test_an_image_has_passed_every_check_and_says_what_is_in_it(
    debian_12: tuple[Path, ImageRecord], usual_packer: str | None, request: pytest.FixtureRequest
) -> None:
    folder, record = debian_12
    note_bake(request, usual_packer, record)
    assert record.status == "verified"
    assert record.verify
    assert all(check["passed"] for check in record.verify["checks"])
    versions = {package.name: package.version for package in record.packages}
    assert versions["postfix"].startswith("3.7.")
    components = json.loads((folder / SBOM).read_text())["components"]
    assert {"postfix", "python3-boto3"} <= {component["name"] for component in components}
    assert {"boot", "install", "configure", "seal", "total"} <= set(record.timings)
    assert record.artifact.size == (folder / IMAGE).stat().st_size


def test_nothing_of_the_bake_but_what_one_can_read_stays(debian_12: tuple[Path, ImageRecord]) -> None:
    folder, _record = debian_12
    names = {path.name for path in folder.iterdir()}
    assert {IMAGE, RECORD, SBOM, "rendered", "packer.log", "serial.log"} <= names
    assert not {"id_ed25519", "payload.tar", "start.qcow2", "out", "tmp"} & names


def test_the_same_request_is_answered_without_any_tool(
    debian_12: tuple[Path, ImageRecord],
    config: RelayConfig,
    images_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bake(BakeRequest(config=config, base="debian-12", images_dir=images_dir)) == debian_12


def test_every_other_packer_bakes_an_image_that_relays(
    other_packer: Packer, config: RelayConfig, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base_build.ensure("debian-12")
    asked = BakeRequest(
        config=config, base="debian-12", images_dir=tmp_path, profile="short", packer=other_packer.path
    )
    _folder, record = bake(asked)
    assert (record.status, record.tools["packer"]) == ("verified", other_packer.version)
    note_bake(request, request.node.callspec.params["other_packer"], record)


def test_the_next_generation_bakes_and_relays_with_everything_that_can_be_asked_for(
    images_dir: Path,
) -> None:
    _bake_everything(EVERYTHING, images_dir)


@pytest.mark.releases
def test_the_next_generation_logs_in_by_oauth_too(images_dir: Path) -> None:
    _bake_everything(WITH_OAUTH, images_dir)


def _bake_everything(asked: dict[str, Any], images_dir: Path) -> None:
    base_build.ensure("debian-13")
    asked_for = load_config(None, asked)
    name = "everything-debian-13"
    _folder, record = bake(
        BakeRequest(config=asked_for, base="debian-13", images_dir=images_dir, profile="short", name=name)
    )
    assert record.status == "verified"
    assert record.verify
    assert {"submission", "signed"} <= {check["name"] for check in record.verify["checks"]}


@pytest.mark.releases
def test_the_next_generation_bakes_and_relays(config: RelayConfig, images_dir: Path) -> None:
    _bake_and_verify("debian-13", config, images_dir)


@pytest.mark.releases
def test_the_last_generation_bakes_and_relays(config: RelayConfig, images_dir: Path) -> None:
    _bake_and_verify("debian-11", config, images_dir)


def test_a_package_that_does_not_exist_is_named(tmp_path: Path) -> None:
    wrong = load_config(None, {"preset": "ses", "region": "us-east-1", "packages": ["no-such-package"]})
    with pytest.raises(BuilderError) as caught:
        bake(BakeRequest(config=wrong, base="debian-12", images_dir=tmp_path, profile="none"))
    assert "no-such-package" in caught.value.message
    bundle = _only(tmp_path / ".failed") / "bundle"
    assert {"DIAGNOSIS.txt", "serial.log", "packer.log", "install.log", "cloud-init-status.json"} <= {
        path.name for path in bundle.iterdir()
    }
    assert _images(tmp_path) == []


def test_a_base_that_does_not_boot_fails_with_its_console(config: RelayConfig, tmp_path: Path) -> None:
    raw, base = tmp_path / "empty.raw", tmp_path / "empty.qcow2"
    with raw.open("wb") as stream:
        stream.truncate(1 << 30)
    process.run(["qemu-img", "convert", "-O", "qcow2", raw, base])
    images = tmp_path / "images"
    request = BakeRequest(
        config=config, base=str(base), release="debian-12", images_dir=images, profile="none"
    )
    with pytest.raises(BuilderError, match="boot"):
        bake(request)
    assert "No bootable device" in (_only(images / ".failed") / "bundle" / "serial.log").read_text()
    assert not _qemu_below(images)


# What builder says when it gets there; the first of them in `make test`, the others take minutes each.
_PHASES = [
    "booting, waiting for SSH",
    *(
        pytest.param(phase, marks=pytest.mark.releases)
        for phase in (
            "installing packages",
            "configuring the relay",
            "sealing the image",
            "shutting down",
            "write the image as one file",
            "sealed: no-host-keys",
            "ready (",
        )
    ),
]


@pytest.mark.parametrize("phase", _PHASES)
def test_ctrl_c_leaves_no_machine_and_no_half_image(phase: str, tmp_path: Path) -> None:
    base_build.ensure("debian-12")
    # Whoever started the tests with `&` or `nohup` has had SIGINT ignored, and that is inherited.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "builder", "bake"]
    with subprocess.Popen(
        [*command, "--preset", "ses", "--region", "us-east-1", "--base", "debian-12"],
        env={**os.environ, "BUILDER_IMAGES": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stderr is not None
        before = next((line for line in running.stderr if phase in line), "")
        started = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGINT)
        _out, said = running.communicate(timeout=120)
    assert phase in before
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert [each for each in started if _is_alive(each)] == []
    assert not _qemu_below(tmp_path)
    assert _images(tmp_path) == []
    assert list((tmp_path / ".work").iterdir()) == []


def test_a_disk_that_fills_up_during_a_bake_is_said(config: RelayConfig, small_disk: Path) -> None:
    request = BakeRequest(config=config, base="debian-12", images_dir=small_disk, profile="none")

    def fill() -> None:
        wait_until(lambda: bool(_qemu_below(small_disk)), seconds=120)
        free = os.statvfs(small_disk)
        with (small_disk / "filler").open("wb") as stream:
            for _block in range(free.f_bavail * free.f_frsize // (1 << 20) - 16):
                stream.write(bytes(1 << 20))

    filler = threading.Thread(target=fill)
    filler.start()
    with pytest.raises(BuilderError, match="is full"):
        bake(request)
    filler.join()
    assert not _qemu_below(small_disk)
    assert _images(small_disk) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that has just the room that a bake asks for."""
    needed = 2 * base_build.ensure("debian-12").size_bytes + (2 << 30)
    folder = tmp_path / "small"
    folder.mkdir()
    process.run(["mount", "-t", "tmpfs", "-o", f"size={needed + (64 << 20)}", "tmpfs", folder])
    yield folder
    process.run(["umount", folder])


def _bake_and_verify(base: str, config: RelayConfig, images_dir: Path) -> None:
    """Bake on another release, with the same checks that the image on Debian 12 has passed."""
    base_build.ensure(base)
    _folder, record = bake(BakeRequest(config=config, base=base, images_dir=images_dir, profile="standard"))
    assert record.status == "verified"
    assert record.verify
    assert record.verify["profile"] in ("standard", "full")
    assert all(check["passed"] for check in record.verify["checks"])


def _images(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def _only(folder: Path) -> Path:
    found = list(folder.iterdir())
    assert len(found) == 1
    return found[0]


def _qemu_below(folder: Path) -> list[int]:
    """List the QEMU processes that use a file below a folder."""
    return [
        each.pid
        for each in psutil.process_iter(["name", "cmdline"])
        if each.info["name"].startswith("qemu-system")
        and any(str(folder) in word for word in each.info["cmdline"] or ())
    ]


def _is_alive(found: psutil.Process) -> bool:
    """A zombie is not: the first process of some containers takes no note of ended ones."""
    try:
        return found.is_running() and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""What the VM tests share: one image of each release, baked once and found again in its record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from builder import base_build
from builder.bake import BakeRequest, bake
from builder.config import RelayConfig, load_config
from builder.packer import Packer
from builder.record import ImageRecord
from tests import packers

_STARTED = datetime.now(UTC)


@pytest.fixture(scope="session", autouse=True)
def usual_packer() -> Iterator[str | None]:
    """Let all bakes take the first Packer at hand that has the qemu builder, and return its name.

    Without one they look on PATH, and say what is missing.
    """
    name = packers.first("qemu")
    with pytest.MonkeyPatch.context() as patch:
        if name is not None:
            patch.setenv("PACKER_BIN", str(packers.paths()[name]))
        yield name


@pytest.fixture(scope="session", params=packers.paths())
def other_packer(request: pytest.FixtureRequest, usual_packer: str | None) -> Packer:
    """Each further Packer that can bake under QEMU; the others are skipped by name."""
    if request.param == usual_packer:
        pytest.skip(f"Packer `{request.param}`: it bakes all the other images")
    return packers.require(request.param, "qemu")


def note_bake(request: pytest.FixtureRequest, name: str | None, record: ImageRecord) -> None:
    """Note that a Packer has baked an image, unless it was made before these tests."""
    if name is not None and record.created >= _STARTED:
        packers.note(request, name, "qemu", "baked")


@pytest.fixture(scope="session")
def config() -> RelayConfig:
    """The configuration of `make demo`, so that its image serves here too."""
    return load_config(None, {"preset": "ses", "region": "us-east-1"})


@pytest.fixture(scope="session")
def images_dir() -> Path:
    """Where images are kept between runs."""
    return Path(os.environ.get("BUILDER_IMAGES", "images")).resolve()


@pytest.fixture(scope="session")
def debian_12(config: RelayConfig, images_dir: Path) -> tuple[Path, ImageRecord]:
    """Folder and record of an image on Debian 12 that has passed the full verification."""
    base_build.ensure("debian-12")
    return bake(BakeRequest(config=config, base="debian-12", images_dir=images_dir))

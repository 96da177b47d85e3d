"""What the VM tests share: one image of each release, baked once and found again in its record."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder import base_build
from builder.bake import BakeRequest, bake
from builder.config import RelayConfig, load_config
from builder.record import ImageRecord


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

"""The table of cloud images: addresses as Canonical publishes them."""

from __future__ import annotations

import pytest

from builder.base_images import CloudImage, cloud_image, cloud_images, ssm_parameter
from builder.errors import BuilderError


def test_every_ubuntu_release_is_there_for_both_architectures() -> None:
    assert [(each.release.version, each.arch) for each in cloud_images()] == [
        (version, arch) for version in ("20.04", "22.04", "24.04", "26.04") for arch in ("amd64", "arm64")
    ]


def test_addresses_of_an_image_and_of_what_verifies_it() -> None:
    image = cloud_image("ubuntu-24.04", "arm64")
    folder = "https://cloud-images.ubuntu.com/releases/noble/release"
    assert image.url == f"{folder}/ubuntu-24.04-server-cloudimg-arm64.img"
    assert image.sums_url == f"{folder}/SHA256SUMS"
    assert image.signature_url == f"{folder}/SHA256SUMS.gpg"
    assert image.file_name == "ubuntu-24.04-server-cloudimg-arm64.img"


@pytest.mark.parametrize("image", cloud_images(), ids=lambda image: image.file_name)
def test_every_address_is_https_and_names_release_and_architecture(image: CloudImage) -> None:

    assert image.url.startswith("https://")
    assert image.release.codename in image.url
    assert image.url.endswith(f"-{image.arch}.img")


@pytest.mark.parametrize(
    ("name", "arch", "parameter"),
    [
        (
            "ubuntu-22.04",
            "amd64",
            "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id",
        ),
        (
            "ubuntu-24.04",
            "arm64",
            "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
        ),
        (
            "ubuntu-26.04",
            "amd64",
            "/aws/service/canonical/ubuntu/server/26.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
        ),
        ("debian-13", "amd64", "/aws/service/debian/release/13/latest/amd64"),
    ],
)
def test_ami_parameters_use_gp3_from_24_04(name: str, arch: str, parameter: str) -> None:
    assert ssm_parameter(name, arch) == parameter


def test_a_debian_image_is_built_not_downloaded() -> None:
    with pytest.raises(BuilderError) as caught:
        cloud_image("debian-12", "amd64")
    assert caught.value.hint == "Run `builder base build debian-12`"


def test_an_architecture_without_image_lists_those_there_are() -> None:
    with pytest.raises(BuilderError, match="no image for `riscv64`; there are `amd64`, `arm64`"):
        cloud_image("ubuntu-24.04", "riscv64")

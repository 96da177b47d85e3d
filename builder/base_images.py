"""The table of Canonical's cloud images: where each lies, its checksums, its AMI parameter."""

from __future__ import annotations

from dataclasses import dataclass

from builder.errors import BuilderError
from builder.releases import RELEASES, Release, get_release

SITE = "https://cloud-images.ubuntu.com"


@dataclass(frozen=True)
class CloudImage:
    """One image as Canonical publishes it.

    Always the *server* image, not the *minimal* one: it exists for every release and architecture
    here, it is what the AMIs of the same name hold, and its kernel is a full one (the minimal images
    of 20.04 and 22.04 carry `linux-kvm`, which leaves modules out).
    """

    release: Release
    arch: str
    url: str
    sums_url: str
    signature_url: str
    ssm_parameter: str

    @property
    def file_name(self) -> str:
        """The name under which SHA256SUMS lists it."""
        return self.url.rsplit("/", 1)[1]


def cloud_image(name: str, arch: str, *, site: str = SITE) -> CloudImage:
    """Return the image of an Ubuntu release; BuilderError when Canonical has none for it."""
    release = get_release(name)
    if release.family != "ubuntu":
        raise BuilderError(
            f"There is no image of `{name}` to download", hint=f"Run `builder base build {name}`"
        )
    if arch not in release.architectures:
        known = ", ".join(f"`{each}`" for each in release.architectures)
        raise BuilderError(f"`{name}` has no image for `{arch}`; there are {known}")
    folder = f"{site}/releases/{release.codename}/release"
    return CloudImage(
        release=release,
        arch=arch,
        url=f"{folder}/ubuntu-{release.version}-server-cloudimg-{arch}.img",
        sums_url=f"{folder}/SHA256SUMS",
        signature_url=f"{folder}/SHA256SUMS.gpg",
        ssm_parameter=ssm_parameter(name, arch),
    )


def ssm_parameter(name: str, arch: str) -> str:
    """Return the public SSM parameter that holds the id of the release's current AMI.

    Sources: Canonical's "Find Ubuntu images on AWS" (gp2 images up to 22.04, gp3 from 24.04) and
    Debian's wiki, Cloud/AmazonEC2Image.
    """
    release = get_release(name)
    if release.family == "debian":
        return f"/aws/service/debian/release/{release.version}/latest/{arch}"
    volume = "ebs-gp3" if release.version >= "24.04" else "ebs-gp2"
    return f"/aws/service/canonical/ubuntu/server/{release.version}/stable/current/{arch}/hvm/{volume}/ami-id"


def cloud_images(*, site: str = SITE) -> list[CloudImage]:
    """Return the whole table: every Ubuntu release in every architecture."""
    return [
        cloud_image(release.name, arch, site=site)
        for release in RELEASES.values()
        if release.family == "ubuntu"
        for arch in release.architectures
    ]

"""Find the disk image that a bake starts from: by name from the cache or Canonical, or a user's file."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from builder import base_store, console, disk_image
from builder.base_images import SITE, CloudImage, cloud_image
from builder.base_store import Base, Verified
from builder.errors import BuilderError
from builder.releases import RELEASES, get_release

__all__ = ["Base", "KnownBase", "list_bases", "resolve"]

DEFAULT = "ubuntu-24.04"
# What a bake under QEMU boots, on every machine: an arm64 one emulates it (launch.choose_accelerator).
ARCH = "amd64"


@dataclass(frozen=True)
class KnownBase:
    """A base that can be named, and what of it is in the cache."""

    name: str
    arch: str
    # Canonical's address, or the command that builds it.
    source: str
    cached: Base | None

    @property
    def sha256(self) -> str | None:
        """The digest of the cached image."""
        return self.cached.sha256 if self.cached else None


def list_bases() -> list[KnownBase]:
    """Return every base that `--base` takes by name, with its newest image in the cache."""
    known = []
    for release in RELEASES.values():
        for arch in release.architectures:
            cached = base_store.find(release.name, arch)
            if release.family == "ubuntu":
                source = cloud_image(release.name, arch).url
            else:
                source = f"builder base build {release.name}"
            known.append(KnownBase(release.name, arch, source, cached))
    return known


def resolve(
    name_or_path: str | Path,
    *,
    arch: str | None = None,
    release: str | None = None,
    refresh: bool = False,
    site: str = SITE,
) -> Base:
    """Return the base of that name, or the image file at that path.

    A name is answered from the cache, so that a repeated bake starts from the same image and needs
    no network; `refresh` asks Canonical for a newer one. `release` says what a file holds, when its
    name does not. BuilderError: unknown name, no network, wrong checksum, not a usable image.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text not in RELEASES:
        if isinstance(name_or_path, Path) or _looks_like_path(text):
            return from_file(Path(name_or_path), arch=arch, release=release)
        get_release(text)  # raises, with the names that there are
    wanted = arch or ARCH
    cached = base_store.find(text, wanted)
    if cached is not None and not refresh:
        return _unchanged(cached)
    return _fetch(cloud_image(text, wanted, site=site))


def from_file(path: Path, *, arch: str | None = None, release: str | None = None) -> Base:
    """Check a user's image file and record its digest; the file itself is only read."""
    if release is not None:
        get_release(release)
    disk_image.check(path, disk_image.BASE)
    sha256 = base_store.file_sha256(path)
    known = base_store.find_digest(sha256)
    status = path.stat()
    base = Base(
        name=path.name,
        path=path.resolve(),
        sha256=sha256,
        size_bytes=status.st_size,
        arch=arch or _guess_arch(path.name),
        release=release or _guess_release(path.name),
        verified="given",
        source=str(path),
        made_at=base_store.now(),
    )
    if known is None:
        return base
    # The same bytes as a base in the cache: what is known of that one holds for this one.
    return replace(base, arch=known.arch, release=release or known.release, verified=known.verified)


def _unchanged(base: Base) -> Base:
    """Return a cached base whose file still has its digest; a changed one is not used."""
    if base_store.file_sha256(base.path) == base.sha256:
        return base
    again = f"`builder base build {base.name}`" if base.verified == "built" else "the command"
    raise BuilderError(
        f"The cached base `{base.name}` has changed on disk since it was verified: `{base.path}`",
        hint=f"Run `rm -r {base.path.parent}`, then {again} again",
    )


def _fetch(image: CloudImage) -> Base:
    """Download, verify and keep a cloud image; one process at a time for each image."""
    from builder import base_download  # a fifth of a second: requests; a cached base does without

    label = f"{image.release.name}-{image.arch}"
    with (
        base_store.lock(label, doing=f"downloading {image.release.name}"),
        base_store.work_folder(label) as work,
    ):
        with console.step(f"Asking for the checksum of {image.file_name}"):
            sha256, verified = base_download.fetch_digest(image, work)
        cached = base_store.find_digest(sha256)
        if cached is not None:
            return _unchanged(cached)
        target = work / base_store.IMAGE_NAME
        base_download.fetch_image(image, target, sha256)
        disk_image.check(target, disk_image.BASE)
        return base_store.add(work, _downloaded(image, target, sha256, verified))


def _downloaded(image: CloudImage, path: Path, sha256: str, verified: Verified) -> Base:
    return Base(
        name=image.release.name,
        path=path,
        sha256=sha256,
        size_bytes=path.stat().st_size,
        arch=image.arch,
        release=image.release.name,
        verified=verified,
        source=image.url,
        made_at=base_store.now(),
    )


def _looks_like_path(text: str) -> bool:
    return "/" in text or text.endswith((".img", ".qcow2", ".raw")) or Path(text).exists()


def _guess_release(file_name: str) -> str | None:
    """Read the release off a name such as `noble-server-cloudimg-amd64.img`."""
    words = set(re.split(r"[-_]", file_name.lower()))
    for release in RELEASES.values():
        if release.codename in words or release.name in file_name.lower():
            return release.name
    return None


def _guess_arch(file_name: str) -> str:
    found = re.search(r"amd64|x86_64|arm64|aarch64", file_name.lower())
    if found is None:
        return ARCH
    return "amd64" if found[0] in ("amd64", "x86_64") else "arm64"

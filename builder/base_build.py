"""Build a bootable base image from a package mirror, where cloud images cannot be downloaded."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from builder import base_disk, base_packages, base_rootfs, base_store, console, process
from builder.base_disk import DiskIds
from builder.base_packages import Suite
from builder.base_store import Base
from builder.errors import BuilderError, CommandError, ToolError
from builder.releases import Release, get_release

ARCH = "amd64"
_NEEDED_BYTES = 3 * 10**9
# Program and package that holds it.
_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "sfdisk": "fdisk",
    "mke2fs": "e2fsprogs",
    "mformat": "mtools",
    "qemu-img": "qemu-utils",
    "zstd": "zstd",
}


def build(name: str, *, mirror: str | None = None) -> Base:
    """Build a base anew and put it into the cache.

    Needs root. BuilderError: unknown release, missing tools, no mirror, full disk. On any failure
    nothing half-made is left; packages already downloaded are kept.
    """
    release = get_release(name)
    _check_machine(release)
    with _lock(release):
        return _build(release, mirror)


def ensure(name: str, *, mirror: str | None = None) -> Base:
    """Return the newest base of that name from the cache, or build one."""
    release = get_release(name)
    cached = base_store.find(name, ARCH)
    if cached is not None:
        return cached
    _check_machine(release)
    with _lock(release):
        # Another process may have built it while this one waited.
        return base_store.find(name, ARCH) or _build(release, mirror)


def rootfs_tar(name: str) -> Path:
    """Return the root file system (.tar.zst) of the newest built base of that name: a chroot for tests."""
    get_release(name)
    for base in base_store.cached_bases():
        archive = base.path.parent / base_store.ROOTFS_NAME
        if base.name == name and archive.is_file():
            return archive
    raise BuilderError(f"`{name}` has not been built here", hint=f"Run `builder base build {name}`")


def _build(release: Release, mirror: str | None) -> Base:
    """Build under the lock: packages into a folder, the folder into a disk, both into the cache."""
    _require_room(base_store.bases_folder())
    suites, epoch = _suites(release, mirror)
    with _work(release) as work, _umask(0o022):
        root, disk, log = work / "root", work / "disk.raw", work / "mmdebstrap.log"
        debs = base_store.cache_folder() / "debs" / release.name
        base_rootfs.install(release, suites, root, debs=debs, log=log, epoch=epoch)
        packages = base_rootfs.installed(root)
        ids = DiskIds(seed=_seed(release, packages))
        with console.step("Making a bootable disk"):
            base_rootfs.make_like_cloud_image(root, release, suites)
            base_disk.write_boot_files(root, release, ids)
            base_rootfs.pack(root, work / base_store.ROOTFS_NAME, epoch=epoch)
            base_disk.make_disk(root, disk, release, ids, epoch=epoch)
            base_disk.to_qcow2(disk, work / base_store.IMAGE_NAME)
        kernel = base_disk.kernel_version(root)
        for scrap in (root, work / "efi"):
            base_store.remove_tree(scrap)
        disk.unlink()
        extra = {
            "kernel": kernel,
            "suites": [suite.line() for suite in suites],
            "rootfs": base_store.ROOTFS_NAME,
            "packages": packages,
        }
        return base_store.add(work, _describe(release, work, suites), extra)


def _describe(release: Release, work: Path, suites: list[Suite]) -> Base:
    image = work / base_store.IMAGE_NAME
    return Base(
        name=release.name,
        path=image,
        sha256=base_store.file_sha256(image),
        size_bytes=image.stat().st_size,
        arch=ARCH,
        release=release.name,
        verified="built",
        source=f"packages from {suites[0].uri}",
        made_at=base_store.now(),
    )


def _suites(release: Release, mirror: str | None) -> tuple[list[Suite], int]:
    wanted = base_packages.suites(release, mirror=mirror)
    with base_store.work_folder(f"index-{release.name}") as folder:
        suites, epoch = base_packages.published(wanted, release, folder)
    for suite in wanted:
        if suite not in suites:
            console.warn(f"`{suite.uri}` has no `{suite.name}`: the base goes without these updates")
    return suites, epoch


def _check_machine(release: Release) -> None:
    if base_store.host_arch() != ARCH:
        raise BuilderError(
            f"A base can be built on {ARCH} only; this machine is {base_store.host_arch()}",
            hint="Give an image with `--base FILE`",
        )
    missing = [tool for tool in _TOOLS if not _has(tool)]
    if missing:
        names = ", ".join(f"`{tool}`" for tool in missing)
        raise ToolError(
            f"To build a base image these programs are needed and not installed: {names}",
            hint=f"Run `apt-get install {' '.join(_TOOLS[tool] for tool in missing)}`",
        )
    if os.geteuid() != 0:
        raise BuilderError(
            "A base image can be built by root only: files in it belong to many users",
            hint=f"Run `sudo builder base build {release.name}`",
        )


def _has(tool: str) -> bool:
    try:
        process.find_tool(tool, to="build a base", install="")
    except ToolError:
        return False
    return True


def _require_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise BuilderError(
            f"The disk of `{folder}` is nearly full: a base needs {_NEEDED_BYTES / 1e9:.0f} GB "
            f"while it is built, {free / 1e9:.1f} GB are free",
            hint="Make room, or set `BUILDER_CACHE` to a folder on another disk",
        )


def _lock(release: Release) -> AbstractContextManager[None]:
    return base_store.lock(f"{release.name}-{ARCH}", doing=f"building {release.name}")


@contextmanager
def _work(release: Release) -> Iterator[Path]:
    """Give the work folder; errors of the disk and of the tools are told in the user's words."""
    try:
        with base_store.work_folder(f"{release.name}-{ARCH}") as work:
            yield work
    except CommandError as error:
        raise base_rootfs.explain(error) from error
    except OSError as error:
        raise BuilderError(
            f"Building {release.name} failed: {error.strerror}: `{error.filename}`",
            hint="Make room, or set `BUILDER_CACHE` to a folder on another disk",
        ) from error


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    """Files written into the image are readable in it, whatever this user's umask is."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _seed(release: Release, packages: dict[str, str]) -> str:
    """Give the same identifiers to the same content."""
    listed = "\n".join(f"{name} {version}" for name, version in packages.items())
    return f"{release.name}/{hashlib.sha256(listed.encode()).hexdigest()}"

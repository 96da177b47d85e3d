"""The cache of base images on this machine: where they lie, what they are, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import platformdirs
from filelock import FileLock, Timeout

from builder import console
from builder.errors import BuilderError
from builder.workspace import require_place

SCHEMA = 1
IMAGE_NAME = "image.qcow2"
ROOTFS_NAME = "root.tar.zst"
RECORD_NAME = "base.json"

# How an image came to be trusted: a signature on its checksum, a checksum over HTTPS, made here from
# packages whose signatures apt checked, or handed over by the user.
Verified = Literal["gpg", "checksum", "built", "given"]

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Base:
    """A local disk image that a bake can start from."""

    name: str
    path: Path
    sha256: str
    size_bytes: int
    arch: str
    release: str | None
    verified: Verified
    # Where it came from: an address, the package mirror, or the user's path.
    source: str
    made_at: str

    def record(self) -> dict[str, object]:
        """Describe the base for the image record: everything but where it lies on this machine."""
        return {
            "name": self.name,
            "release": self.release,
            "arch": self.arch,
            "sha256": self.sha256,
            "size_bytes": self.size_bytes,
            "verified": self.verified,
            "source": self.source,
            "made_at": self.made_at,
        }


def host_arch() -> str:
    """Return this machine's architecture in Debian's words; the kernel's word where unknown."""
    machine = platform.machine()
    return _MACHINES.get(machine, machine)


def cache_folder() -> Path:
    """Return the folder of everything that can be made again: `$BUILDER_CACHE` or the user's cache."""
    given = os.environ.get("BUILDER_CACHE")
    return Path(given).absolute() if given else platformdirs.user_cache_path("builder")


def bases_folder() -> Path:
    """Return the folder of the base images: one folder per digest."""
    return _usable_cache() / "bases"


def _usable_cache() -> Path:
    hint = "Set `BUILDER_CACHE` to a folder that you may write to"
    return require_place(cache_folder(), what="The cache", hint=hint)


def now() -> str:
    """Write the time as records have it: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def cached_bases() -> list[Base]:
    """Return the bases in the cache, the newest first; folders without a whole record do not count."""
    found = []
    for path in bases_folder().glob(f"*/{RECORD_NAME}"):
        base = _read(path)
        if base is not None and base.path.is_file():
            found.append(base)
    return sorted(found, key=lambda base: base.made_at, reverse=True)


def find(name: str, arch: str) -> Base | None:
    """Return the newest cached base of that name and architecture."""
    matching = (base for base in cached_bases() if (base.name, base.arch) == (name, arch))
    return next(matching, None)


def find_digest(sha256: str) -> Base | None:
    """Return the cached base with that digest."""
    base = _read(bases_folder() / sha256 / RECORD_NAME)
    return base if base is not None and base.path.is_file() else None


def add(work: Path, base: Base, extra: Mapping[str, object] | None = None) -> Base:
    """Move a finished work folder into the cache; `base.path` lies in it.

    The record is written last and the move is one rename, so that a half-made base never counts.
    """
    content = {"schema": SCHEMA, **base.record(), "file": base.path.name, **(extra or {})}
    (work / RECORD_NAME).write_text(json.dumps(content, indent=2) + "\n")
    target = bases_folder() / base.sha256
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    work.rename(target)
    added = _read(target / RECORD_NAME)
    if added is None:
        raise BuilderError(f"`{target / RECORD_NAME}` was written but cannot be read back")
    remember(added.path, added.sha256)
    return added


@contextmanager
def lock(label: str, *, doing: str) -> Iterator[None]:
    """Let one process at a time build or download a base; `doing` says what another one is at."""
    folder = bases_folder()
    with _writing():
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / f".lock-{label}")
        try:
            held.acquire(timeout=0)
        except Timeout:
            console.say(f"Another process is {doing}; waiting for it")
            held.acquire()
    try:
        yield
    finally:
        held.release()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BuilderError(
            f"Cannot write to the cache folder `{bases_folder()}`: {error.strerror}",
            hint="Set `BUILDER_CACHE` to a folder that you may write to",
        ) from error


@contextmanager
def work_folder(label: str) -> Iterator[Path]:
    """Give an empty folder inside the cache; what is still there at the end is removed.

    One process at a time may use a label (callers hold a lock), so one that is left over from a
    killed run is removed first.
    """
    work = bases_folder() / f".work-{label}"
    remove_tree(work)
    with _writing():
        work.mkdir(parents=True)
    try:
        yield work
    finally:
        remove_tree(work)


def remove_tree(folder: Path) -> None:
    """Remove a folder, but never through a file system that is still mounted below it."""
    if not folder.exists():
        return
    mounted = mounts_below(folder)
    if mounted:
        raise BuilderError(
            f"`{mounted[-1]}` is still mounted, so `{folder}` was not removed",
            hint=f"Run `umount -R {mounted[-1]}` and then `rm -rf {folder}`",
        )
    shutil.rmtree(folder)


def mounts_below(folder: Path) -> list[Path]:
    """Return what is mounted on the folder or below it. Format: proc_pid_mountinfo(5), field 5."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:  # not Linux
        return []
    points = (Path(line.split()[4].replace("\\040", " ")) for line in lines)
    root = folder.resolve()
    return sorted(point for point in points if point.is_relative_to(root))


def file_sha256(path: Path) -> str:
    """Return a file's digest; it is read again only when its size, time or inode has changed."""
    remembered = _recall(path)
    if remembered is not None:
        return remembered
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    remember(path, digest.hexdigest())
    return digest.hexdigest()


def _memo(path: Path) -> Path:
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return _usable_cache() / "digests" / f"{key}.json"


def _identity(path: Path) -> dict[str, object]:
    status = path.stat()
    return {
        "path": str(path.resolve()),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "inode": status.st_ino,
    }


def _recall(path: Path) -> str | None:
    try:
        memo = json.loads(_memo(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sha256 = memo.pop("sha256", None)
    return sha256 if isinstance(sha256, str) and memo == _identity(path) else None


def remember(path: Path, sha256: str) -> None:
    """Note the digest of a file that was just read, for `file_sha256`."""
    memo = _memo(path)
    part = memo.with_suffix(f".{os.getpid()}.part")
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({**_identity(path), "sha256": sha256}))
        part.replace(memo)
    except OSError:  # only a memo: without it the file is read again
        with suppress(OSError):
            part.unlink()


def _read(path: Path) -> Base | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            return None
        return Base(
            name=content["name"],
            path=path.parent / content["file"],
            sha256=content["sha256"],
            size_bytes=content["size_bytes"],
            arch=content["arch"],
            release=content["release"],
            verified=content["verified"],
            source=content["source"],
            made_at=content["made_at"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None

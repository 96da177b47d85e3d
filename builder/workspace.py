"""The folder of one bake: what goes in lies open in it, and an image appears only when all of it is there.

images/NAME/                 a finished image
images/.work/NAME-BAKE/      a bake at work
images/.failed/NAME-BAKE/    a failed one, with its bundle/
images/.locks/NAME.lock      held while NAME is baked
images/.instances/           relays that were launched from these images
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from builder import process
from builder.errors import BuilderError
from builder.scratch import Scratch

# The folder of the launched relays, below that of the images.
INSTANCES = ".instances"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_KEPT_FAILURES = 3
# Linux takes 107 bytes for the path of a Unix socket; Packer's plugins put `packer-plugin0123456789` there.
_LONGEST_TMPDIR = 70
# What is needed to bake and of no use, or not to be kept, afterwards.
_TRANSIENT = ("tmp", "out", "start.qcow2", "payload.tar", "id_ed25519", "id_ed25519.pub")
_EXECUTABLE = ("usr/sbin/", "usr/bin/", "usr/lib/relay/bin/")


@dataclass(frozen=True)
class Workspace:
    """One bake's folder; `name` is the image's, `bake_id` tells this bake from all others."""

    images_dir: Path
    name: str
    bake_id: str

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.images_dir / ".work" / f"{self.name}-{self.bake_id}"

    @property
    def rendered(self) -> Path:
        """Every rendered file: `root/…`, `seed/…`, `packages.txt`, `install.json`."""
        return self.path / "rendered"

    @property
    def seed(self) -> Path:
        """cloud-init's NoCloud files for the bake."""
        return self.rendered / "seed"

    @property
    def payload(self) -> Path:
        """The archive that is copied into the machine."""
        return self.path / "payload.tar"

    @property
    def key(self) -> Path:
        """The private key of this run."""
        return self.path / "id_ed25519"

    @property
    def packer(self) -> Path:
        """The staged template."""
        return self.path / "packer"

    @property
    def manifest(self) -> Path:
        """What Packer says it made."""
        return self.path / "packer" / "manifest.json"

    @property
    def out(self) -> Path:
        """Packer's output folder; Packer makes and, after a failure, deletes it."""
        return self.path / "out"

    @property
    def serial_log(self) -> Path:
        """The machine's serial console."""
        return self.path / "serial.log"

    @property
    def packer_log(self) -> Path:
        """Packer's output, as a user of Packer sees it."""
        return self.path / "packer.log"

    @property
    def debug_log(self) -> Path:
        """Packer's own log (PACKER_LOG=1), QEMU's messages in it."""
        return self.path / "packer-debug.log"

    @property
    def verify_logs(self) -> Path:
        """What the instances that `verify` booted said: a folder each."""
        return self.path / "verify-logs"

    def write(self, files: Mapping[str, str]) -> None:
        """Write rendered files, each under its relative path in `rendered/`."""
        for relative, text in files.items():
            path = self.rendered / relative
            if not path.resolve().is_relative_to(self.rendered.resolve()):
                raise BuilderError(f"Rendered file `{relative}` would be outside `{self.rendered}`")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def make_key(self) -> str:
        """Make the ed25519 key of this run, mode 0600, and return its public half as one line."""
        process.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"bake-{self.bake_id}", "-f", self.key],
            hint="Run `sudo apt-get install openssh-client`",
        )
        self.key.chmod(0o600)
        return self.key.with_suffix(".pub").read_text(encoding="utf-8").strip()

    def drop_key(self) -> None:
        """Delete the private key: nothing needs it once the image is sealed."""
        self.key.unlink(missing_ok=True)
        self.key.with_suffix(".pub").unlink(missing_ok=True)

    def pack_payload(self, extra: Mapping[str, Path] | None = None) -> Path:
        """Write `payload.tar`: `root/`, `packages.txt`, `install.json`, plus `extra` (name to file).

        The same files give the same bytes: sorted, owned by root, dated 1970. /usr/sbin and /usr/bin are
        0755, the rest 0644.
        """
        found = [path for path in (self.rendered / "root").rglob("*") if path.is_file()]
        found += [self.rendered / name for name in ("packages.txt", "install.json")]
        members = {path.relative_to(self.rendered).as_posix(): path for path in found if path.exists()}
        members.update(extra or {})
        with tarfile.open(self.payload, "w", format=tarfile.GNU_FORMAT) as archive:
            for folder in _folders(members):
                archive.addfile(_member(folder, mode=0o755, kind=tarfile.DIRTYPE))
            for name, path in sorted(members.items()):
                content = path.read_bytes()
                entry = _member(name, mode=_mode(name), kind=tarfile.REGTYPE)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return self.payload

    def finish(self) -> Path:
        """Put the workspace in place as the image NAME and return its folder.

        An older image of that name is kept until the new one is there.
        """
        self._drop_transient()
        final = self.images_dir / self.name
        replaced = self.images_dir / ".replaced" / self.name
        if final.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            replaced.parent.mkdir(exist_ok=True)
            final.rename(replaced)
        self.path.rename(final)
        shutil.rmtree(replaced, ignore_errors=True)
        return final

    def fail(self) -> Path:
        """Move the workspace to `.failed/`, without key and disks, and return its folder there."""
        self._drop_transient()
        kept = self.images_dir / ".failed"
        kept.mkdir(exist_ok=True)
        final = kept / self.path.name
        self.path.rename(final)
        for path in sorted(_of_image(kept, self.name))[:-_KEPT_FAILURES]:
            shutil.rmtree(path, ignore_errors=True)
        return final

    def _drop_transient(self) -> None:
        for name in _TRANSIENT:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def new_bake_id() -> str:
    """Make the id of a bake: sorts by time, and has no hyphen."""
    return time.strftime("%Y%m%dt%H%M%S") + secrets.token_hex(2)


def require_name(name: str) -> None:
    """Check that an image may have this name. Errors: BuilderError."""
    if not _NAME.fullmatch(name):
        raise BuilderError(
            f"`{name}` cannot be the name of an image",
            hint="Use lower-case letters, digits, `.`, `_` and `-`, at most 63, such as `ses-2026-11`",
        )


@contextmanager
def create(images_dir: Path, name: str, bake_id: str, *, wait_seconds: float = 0) -> Iterator[Workspace]:
    """Make the workspace of a bake and hold the lock on its image name for the `with` block.

    Leave it with `finish` or `fail`; what is still in `.work/` afterwards is deleted. Errors:
    BuilderError when the name will not do, or another bake holds it for longer than `wait_seconds`.
    """
    require_name(name)
    images_dir = images_dir.absolute()
    workspace = Workspace(images_dir, name, bake_id)
    with hold(images_dir, name, wait_seconds=wait_seconds):
        recover(images_dir, name)
        workspace.path.mkdir(parents=True)
        workspace.rendered.mkdir()
        try:
            yield workspace
        finally:
            shutil.rmtree(workspace.path, ignore_errors=True)


@contextmanager
def hold(images_dir: Path, name: str, *, wait_seconds: float = 0) -> Iterator[None]:
    """Hold the lock on an image name; a killed process loses it. Errors: BuilderError saying who holds it."""
    locks = images_dir / ".locks"
    make_folder(locks)
    holder = locks / f"{name}.json"
    lock = FileLock(_lock_of(images_dir, name))
    try:
        lock.acquire(timeout=wait_seconds, poll_interval=0.2)
    except Timeout:
        raise BuilderError(
            f"Image `{name}` is being baked by {_read_holder(holder)}",
            hint="Wait for it, ask builder to with `--wait`, or bake under another name with `--name`",
        ) from None
    try:
        holder.write_text(
            json.dumps({"pid": os.getpid(), "since": time.strftime("%H:%M:%S")}), encoding="utf-8"
        )
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def recover(images_dir: Path, name: str) -> None:
    """Clear what killed bakes left: of this name, whose lock is held, and of others that nobody bakes now."""
    for path in _of_image(images_dir / ".work", name):
        shutil.rmtree(path, ignore_errors=True)
    for path in (images_dir / ".work").glob("*-*"):
        with suppress(Timeout), FileLock(_lock_of(images_dir, path.name.rpartition("-")[0]), timeout=0):
            shutil.rmtree(path, ignore_errors=True)
    replaced = images_dir / ".replaced" / name
    if replaced.is_dir() and not (images_dir / name).exists():
        replaced.rename(images_dir / name)


@contextmanager
def short_tmpdir(workspace: Workspace) -> Iterator[Path]:
    """Give a folder for temporary files whose path leaves room for a socket's name; deleted afterwards."""
    inside = workspace.path / "tmp"
    if len(str(inside)) <= _LONGEST_TMPDIR:
        inside.mkdir(exist_ok=True)
        yield inside
        return
    with Scratch("packer", short=True) as outside:
        yield outside


def require_space(folder: Path, needed_bytes: int, *, to: str) -> None:
    """Check free space before work begins. `to` ends the sentence "… are needed to"."""
    free = free_bytes(folder)
    if free < needed_bytes:
        raise BuilderError(
            f"`{folder}` has {free / 1e9:.1f} GB free; {needed_bytes / 1e9:.1f} GB are needed to {to}",
            hint="Free some space there, or set BUILDER_IMAGES to a folder on another disk",
        )


def free_bytes(folder: Path) -> int:
    """Return the free space of the disk that holds a folder, also one that is not there yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def require_place(folder: Path, *, what: str, hint: str) -> Path:
    """Return a folder that is there or can be made. Errors: BuilderError when a file stands in its place."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise BuilderError(f"{what} cannot be in `{folder}`: `{existing}` is not a folder", hint=hint)
    return folder


def require_writable(images_dir: Path) -> None:
    """Make the folder of the images and check that it may be written to. Errors: BuilderError."""
    make_folder(images_dir)
    if not os.access(images_dir, os.W_OK | os.X_OK):
        raise BuilderError(
            f"The folder of the images, `{images_dir}`, may not be written to",
            hint="Set BUILDER_IMAGES to a folder that you may write to",
        )


def make_folder(folder: Path) -> None:
    """Make a folder below that of the images, if it is not there. Errors: BuilderError that says why not."""
    try:
        with no_space(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuilderError(
            f"Cannot make the folder `{folder}`: {error.strerror}",
            hint="Set BUILDER_IMAGES to a folder that you may write to",
        ) from error


@contextmanager
def no_space(folder: Path) -> Iterator[None]:
    """Turn "no space left on device" inside the block into an error that says where."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(folder) from error


def disk_full(folder: Path) -> BuilderError:
    """Describe a disk that filled up during a bake."""
    return BuilderError(
        f"The disk that holds `{folder}` is full",
        hint="Free some space there, or set BUILDER_IMAGES to a folder on another disk, and bake again",
    )


def _of_image(folder: Path, name: str) -> list[Path]:
    """List the bakes of one image; a bake id has no hyphen, so `ses-2026-…` is not taken for `ses`."""
    return [path for path in folder.glob(f"{name}-*") if path.name.rpartition("-")[0] == name]


def _lock_of(images_dir: Path, name: str) -> Path:
    return images_dir / ".locks" / f"{name}.lock"


def _read_holder(path: Path) -> str:
    with suppress(OSError, ValueError, KeyError):
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} since {holder['since']}"
    return "another process"


def _folders(members: Mapping[str, Path]) -> list[str]:
    folders = {parent.as_posix() for name in members for parent in Path(name).parents}
    return sorted(folders - {"."})


def _member(name: str, *, mode: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.type, entry.mtime = mode, kind, 0
    entry.uname = entry.gname = "root"
    return entry


def _mode(name: str) -> int:
    inside = name.removeprefix("root/")
    return 0o755 if name.startswith("root/") and inside.startswith(_EXECUTABLE) else 0o644

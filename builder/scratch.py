"""Temporary folders, short enough for sockets; what a killed run left in one is cleared by the next run."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "builder-"
# In each folder: a file that its process holds locked. The kernel takes the lock away with the process.
_IN_USE = ".in-use"
# Linux takes 107 bytes for the path of a Unix socket. OpenSSH and Packer's plugins put the longest names
# into a folder, 25 bytes; the folder's own name has as many.
_LONGEST_PARENT = 50


class Scratch:
    """A folder of this process: gone after the `with` block or `remove`, or, after a SIGKILL, with the next.

    `short` is for sockets: then the system's own directory is used where TMPDIR has a long path.
    """

    def __init__(self, label: str, *, short: bool = False) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{label}-", dir=parent(short=short)))
        claim = self.path / f"{_IN_USE}.new"
        self._lock = os.open(claim, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        claim.rename(self.path / _IN_USE)  # under this name it was locked from the first moment

    def remove(self) -> None:
        """Delete the folder with all that is in it; does nothing the second time."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_exc: object) -> None:
        self.remove()


def lasting(label: str) -> Path:
    """Create a folder for sockets that outlives this process; nothing sweeps it."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{label}-", dir=parent(short=True)))


def parent(*, short: bool = False) -> Path:
    """Return where temporary folders are made: TMPDIR, or with `short` `/tmp` when that has a long path."""
    chosen = Path(tempfile.gettempdir())
    return Path("/tmp") if short and len(str(chosen)) > _LONGEST_PARENT else chosen  # noqa: S108  (mkdtemp)


def sweep() -> None:
    """Delete the folders of this user whose process is gone."""
    for folder in {parent(), parent(short=True)}:
        for path in folder.glob(f"{_PREFIX}*/{_IN_USE}"):
            if _is_abandoned(path):
                shutil.rmtree(path.parent, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    """Say whether nobody holds the lock; a folder that is not ours, or gone meanwhile, is left alone."""
    try:
        if path.parent.lstat().st_uid != os.geteuid():
            return False
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False

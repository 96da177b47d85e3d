"""Small files that other programs read while they change: written whole, put in place by rename."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Mapping

from relay_agent.credential import Credential

# Postfix waits up to 3 s for a texthash file that was changed just now, in case it is half written
# (dict_thash.c); one that is put in place whole may look older.
_OLDER_SECONDS = 10


def write_whole(path: Path, text: str, *, mode: int, is_table: bool = False) -> None:
    """Put a file in place by rename, so that a reader sees the old one or the new one.

    No fsync: it is for tmpfs, or for state that may be lost in a power cut. Nothing half-written stays.
    With `is_table` it is a Postfix table: no delivery waits because it is new.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    # O_EXCL and the mode at creation: the content is never readable to anyone else, not even for a moment.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
        if is_table:
            os.utime(temporary, (time.time() - _OLDER_SECONDS,) * 2)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def make_private_folder(path: Path) -> None:
    """Make a folder that only root's group may enter (systemd has made it before us, with the same mode)."""
    path.mkdir(mode=0o750, parents=True, exist_ok=True)
    path.chmod(0o750)


def write_sasl(path: Path, credentials: Mapping[str, Credential]) -> None:
    """Write the password map: one line for each upstream, by its key, for most the bare host name.

    The bare name is what Postfix looks up first (smtp_sasl_glue.c); with `[host]:587` as key the `fail:`
    that follows this map in main.cf would answer before it. Format: DATABASE_README, "texthash".
    """
    lines = [
        f"{key} {credential.username}:{credential.password}\n"
        for key, credential in sorted(credentials.items())
    ]
    write_whole(path, "".join(lines), mode=0o600, is_table=True)


def read_sasl(path: Path) -> dict[str, Credential]:
    """Read the password map back, for `relayctl doctor` and an agent that was started again."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, login = line.partition(" ")
        username, colon, password = login.partition(":")
        if colon:
            found[key] = Credential(username=username, password=password, shape="map")
    return found

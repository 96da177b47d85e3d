"""A mount and process namespace for a private Postfix, with its own files where Postfix looks for them.

Nothing of the machine's own Postfix is touched, the rendered files are used at their real paths, and no
process outlives the namespace.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder import process
from builder.errors import BuilderError

_START_SECONDS = 20
# Runs as process 1 of the namespace: mounts, then takes in orphans until it is told to go.
_INIT = """\
set -e
R=$1 F=$2
mount --bind "$F/etc-postfix" "$R/etc/postfix"
mount --bind "$F/hosts" "$R/etc/hosts"
if [ -n "$R" ]; then
    mount -t proc proc "$R/proc"
    mount --rbind /dev "$R/dev"
    mount --bind /etc/resolv.conf "$R/etc/resolv.conf" 2>/dev/null || :
fi
if [ -d "$F/sasl2" ]; then
    mount --bind "$F/sasl2" "$(echo "$R"/usr/lib/*/sasl2)"
fi
mount -t tmpfs -o mode=755 tmpfs "$R/run"
mkdir -m 750 "$R/run/relay"
mount --bind "$F/run-relay" "$R/run/relay"
mkdir -m 755 "$R/run/relay-lib"
mount --bind "$F/relay-lib" "$R/run/relay-lib"
mkdir -m 750 "$R/run/relay-dsn" "$R/run/relay-users"
chown 8:8 "$R/run/relay-dsn"
mount -t tmpfs -o mode=755 tmpfs "$R/var/log"
mount -t tmpfs -o mode=755,size=256m,nr_inodes=20k tmpfs "$R/var/spool/postfix"
mount -t tmpfs -o mode=755 tmpfs "$R/var/lib/postfix"
chown --reference="$F/lib-owner" "$R/var/lib/postfix"
trap 'exit 0' TERM
touch "$F/ready"
while :; do sleep 3600 & wait $! || :; done
"""


class Sandbox:
    """`root` is `/` or another release's tree; `folder` keeps the private files and must be empty."""

    def __init__(self, folder: Path, *, root: Path = Path("/")) -> None:
        self.folder = folder
        self.root = root
        self._init: process.Running | None = None
        self._pid = 0

    @property
    def etc_postfix(self) -> Path:
        """The private `/etc/postfix`."""
        return self.folder / "etc-postfix"

    @property
    def run_relay(self) -> Path:
        """The private `/run/relay`."""
        return self.folder / "run-relay"

    @property
    def relay_lib(self) -> Path:
        """The private copy of `/usr/lib/relay`, at `/run/relay-lib`."""
        return self.folder / "relay-lib"

    @property
    def sasl_plugins(self) -> Path:
        """What is put over the folder of libsasl's plugins, where it exists; its own are copied there."""
        return self.folder / "sasl2"

    def copy_sasl_plugins(self) -> None:
        """Make the private folder of libsasl's plugins; before `start`."""
        (found,) = (self.root / "usr/lib").glob("*/sasl2")
        shutil.copytree(found, self.sasl_plugins, symlinks=True)

    def start(self, hosts: Mapping[str, str]) -> None:
        """Make the namespace; `hosts` maps names to addresses. Errors: BuilderError when that fails."""
        self._make_folders(hosts)
        prefix = "" if self.root == Path("/") else str(self.root)
        self._init = process.Running(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             "sh", "-c", _INIT, "init", prefix, self.folder],
            log=self.folder / "init.log",
        )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while not (self.folder / "ready").exists():
            if self._init.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "init.log").read_text()
                self.stop()
                raise BuilderError(
                    f"The namespace for a private Postfix could not be made: {said}",
                    hint="It needs root, and CAP_SYS_ADMIN inside a container",
                )
            time.sleep(0.02)
        self._pid = self._child()

    def _make_folders(self, hosts: Mapping[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.root / "etc/postfix", self.etc_postfix, symlinks=True)
        self.run_relay.mkdir(mode=0o750)
        self.relay_lib.mkdir(mode=0o755)
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
        lines += [f"{address} {name}" for name, address in hosts.items()]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        # The owner of data_directory: a number that differs between releases.
        owner = (self.root / "var/lib/postfix").stat()
        marker = self.folder / "lib-owner"
        marker.touch()
        shutil.chown(marker, owner.st_uid, owner.st_gid)

    def _child(self) -> int:
        if self._init is None:
            raise BuilderError("The sandbox has not been started")
        pid = self._init.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs a program inside."""
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--pid"]
        if self.root != Path("/"):
            enter += ["chroot", str(self.root)]
        return [*enter, *argv]

    def run(self, argv: Sequence[str], *, check: bool = True, timeout_seconds: float = 60) -> str:
        """Run a program inside and return what it wrote to stdout. Errors: CommandError."""
        return process.run(self.command(argv), check=check, timeout_seconds=timeout_seconds).stdout

    def stop(self) -> None:
        """End every process inside and remove the mounts with them."""
        if self._init is not None:
            self._init.stop(grace_seconds=3)
            self._init = None

"""Log in to a guest through the system's own ssh."""

from __future__ import annotations

import shlex
from pathlib import Path

from builder import process
from builder.errors import CommandError
from builder.launch.interface import Address
from builder.launch.seed import LOGIN
from builder.process import Finished

_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


class Login:
    """One user of one guest.

    Commands share a connection, because the key exchange takes seconds under software emulation.
    """

    def __init__(self, key: Path, address: Address, *, control: Path, user: str = LOGIN) -> None:
        self._ssh = process.find_tool("ssh", to="log in", install="sudo apt install openssh-client")
        self._key, self._address, self._user = key, address, user
        self._control = control
        self._master: process.Running | None = None

    def command(self, *, connect_seconds: float = 30) -> list[str]:
        """Return the ssh command without what to run; ready to paste.

        The host key is not checked: it was created a moment ago, in a guest on this machine's loopback
        address, and nothing is known to compare it with.
        """
        host, port = self._address
        # fmt: off
        return [
            str(self._ssh), "-F", "/dev/null",
            "-i", str(self._key), "-p", str(port),
            "-o", "IdentitiesOnly=yes",
            "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR",
            "-o", f"ConnectTimeout={max(1, round(connect_seconds))}",
            "-o", "ServerAliveInterval=15",
            "-o", f"ControlPath={self._control}",
            f"{self._user}@{host}",
        ]
        # fmt: on

    def run(
        self,
        command: str,
        *,
        root: bool = False,
        check: bool = True,
        stdin: str | None = None,
        timeout_seconds: float = 60,
    ) -> Finished:
        """Run a shell command, as root through sudo when asked."""
        self._share()
        remote = f"sudo -n -- sh -c {shlex.quote(command)}" if root else command
        return process.run(
            [*self.command(), "--", remote], check=check, stdin=stdin, timeout_seconds=timeout_seconds
        )

    def try_open(self, patience_seconds: float) -> bool:
        """Try to log in once; `patience_seconds` is stretched, because a login takes long when emulated."""
        argv = [*self.command(connect_seconds=patience_seconds * 5), "-o", "ControlPath=none", "--", "true"]
        try:
            return process.run(argv, check=False, timeout_seconds=patience_seconds * 5 + 20).returncode == 0
        except CommandError:
            return False

    def boot_id(self) -> str:
        """Return the identity of the running kernel; CommandError when there is no login."""
        return self.run(_BOOT_ID).stdout.strip()

    def boot_id_or_none(self) -> str | None:
        """Return the identity of the running kernel, or None when it does not answer."""
        argv = [*self.command(connect_seconds=5), "-o", "ControlPath=none", "--", _BOOT_ID]
        try:
            done = process.run(argv, check=False, timeout_seconds=25)
        except CommandError:
            return None
        return done.stdout.strip() or None if done.returncode == 0 else None

    def close(self) -> None:
        """End the shared connection."""
        if self._master is not None:
            self._master.stop(grace_seconds=2)
            self._master = None
        self._control.unlink(missing_ok=True)

    def _share(self) -> None:
        if self._master is not None and self._master.poll() is None:
            return
        self.close()
        # ControlPersist would do the same, but leaves a process behind that holds our pipes open.
        argv = [*self.command(), "-M", "-N"]
        self._master = process.Running(argv, log=self._control.with_name("ssh.log"))

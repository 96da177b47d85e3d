"""A guest under QEMU: a context manager that leaves no process and no file behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from builder import process
from builder.launch import health, qemu, qmp, ssh
from builder.launch.interface import HEALTH_PORT, SMTP_PORT, SSH_PORT, Address, GuestError
from builder.launch.qemu import Machine
from builder.process import Finished

_LOOPBACK = "127.0.0.1"
_SECOND_NET, _SECOND_ADDRESS = "10.0.3.0/24", "10.0.3.15"
_MAC = "52:54:00:0b:0b:03"
_START_SECONDS = 15


@dataclass(frozen=True)
class GuestFiles:
    """What one guest has on this machine: `folders` go with it, and `logs` too unless `keeps_logs`."""

    folders: contextlib.ExitStack
    logs: Path
    keeps_logs: bool
    key: Path | None

    @property
    def qemu_log(self) -> Path:
        """What QEMU itself said."""
        return self.logs / "qemu.log"


class QemuGuest:
    """One virtual machine, started by `start` and gone after the `with` block."""

    def __init__(self, machine: Machine, files: GuestFiles) -> None:
        self.machine = machine
        self._files = files
        self._qemu = qemu.find_qemu()
        self._running: process.Running | None = None
        self._powered_on = 0.0
        self._time_to_ready: float | None = None
        self._last_health = "no answer yet"
        self._login: ssh.Login | None = None
        if files.key is not None:
            self._login = ssh.Login(
                files.key, (_LOOPBACK, machine.forward[SSH_PORT]), control=machine.qmp.with_name("ssh")
            )

    @property
    def smtp_address(self) -> Address:
        """Where port 25 of the guest is reached."""
        return (_LOOPBACK, self.machine.forward[SMTP_PORT])

    @property
    def health_address(self) -> Address:
        """Where the agent's health port is reached."""
        return (_LOOPBACK, self.machine.forward[HEALTH_PORT])

    @property
    def time_to_ready(self) -> float | None:
        """Seconds from the last power-on to the first 200 of `/readyz`."""
        return self._time_to_ready

    @property
    def disk(self) -> Path:
        """The overlay with what the guest wrote."""
        return self.machine.disk

    @property
    def serial_log(self) -> Path:
        """What the guest wrote to its console."""
        return self.machine.serial

    @property
    def key(self) -> Path | None:
        """The private key that logs in, when a login was asked for."""
        return self._files.key

    @property
    def pid(self) -> int | None:
        """The process id of QEMU while it runs."""
        return self._running.pid if self._running is not None else None

    @property
    def seconds_since_power_on(self) -> float:
        """Seconds since QEMU was started last."""
        return time.monotonic() - self._powered_on

    def start(self) -> None:
        """Switch on, and return once QEMU runs the guest; GuestError when QEMU refuses."""
        self._time_to_ready = None
        self._last_health = "no answer yet"
        self._powered_on = time.monotonic()
        self._running = process.Running(
            qemu.command_line(self._qemu, self.machine),
            log=self._files.qemu_log,
            when_we_die=signal.SIGKILL,
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self._check_alive()
            try:
                qmp.execute(self.machine.qmp, "query-status")
            except qmp.QmpError:
                if time.monotonic() > deadline:
                    raise self.error(f"QEMU did not start the guest within {_START_SECONDS} s") from None
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Switch off at once; what the guest had not written is gone. Does nothing when it is off."""
        if self._login is not None:
            self._login.close()
        if self._running is not None:
            self._running.stop(grace_seconds=5)
            self._running = None

    def kill(self) -> None:
        """End QEMU by SIGKILL: what the guest had not flushed to its disk is lost, as in a power cut."""
        if self._login is not None:
            self._login.close()
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)
            self._running.stop()
            self._running = None

    def power_cut(self) -> None:
        """Cut the power and switch it on again, with the same disk.

        Sound even with cache=unsafe: QEMU hands every flush of the guest to this machine's page cache,
        which outlives QEMU; only what the guest itself still held in memory is lost.
        """
        self.kill()
        self.start()

    def shut_down(self, *, timeout_seconds: float = 90) -> None:
        """Press the power button and wait until the guest has switched itself off."""
        qmp.execute(self.machine.qmp, "system_powerdown")
        running = self._running
        if running is None or running.wait(timeout_seconds) is None:
            raise self.error(f"The guest did not shut down within {timeout_seconds:.0f} s")
        self.stop()

    def health(self, path: str = "/readyz") -> tuple[int, str]:
        """Ask a health address once: status and text; status 0 and the reason when there is no answer."""
        return health.ask(self.health_address, path)

    def wait_ready(self, *, timeout_seconds: float = 300) -> float:
        """Wait until `/readyz` says 200 and return `time_to_ready`; GuestError has the last reason."""

        def is_ready(patience_seconds: float) -> bool:
            status, text = health.ask(self.health_address, timeout_seconds=patience_seconds)
            if status:
                self._last_health = f"{status} {text}".strip()
            return status == 200

        self._wait("become ready", is_ready, timeout_seconds)
        self._time_to_ready = self.seconds_since_power_on
        return self._time_to_ready

    def wait_ssh(self, *, timeout_seconds: float = 300) -> float:
        """Wait until a login works and return the seconds since power-on."""
        login = self._require_login()
        self._wait("let the login in", login.try_open, timeout_seconds)
        return self.seconds_since_power_on

    def run(
        self,
        command: str,
        *,
        root: bool = False,
        check: bool = True,
        stdin: str | None = None,
        timeout_seconds: float = 60,
    ) -> Finished:
        """Run a shell command in the guest; CommandError when it fails and `check` is set."""
        self._check_alive()
        return self._require_login().run(
            command, root=root, check=check, stdin=stdin, timeout_seconds=timeout_seconds
        )

    def add_outside_address(self) -> Address:
        """Plug in a second network card, on a network of its own, and return its way to port 25."""
        port = qemu.choose_ports({SMTP_PORT: 0})[SMTP_PORT]
        forward = f"tcp:{_LOOPBACK}:{port}-{_SECOND_ADDRESS}:{SMTP_PORT}"
        self.control(
            "netdev_add",
            {"type": "user", "id": "net2", "net": _SECOND_NET, "ipv6": False, "hostfwd": [{"str": forward}]},
        )
        self.control("device_add", {"driver": "virtio-net-pci", "id": "card2", "netdev": "net2", "mac": _MAC})
        self.run(_UP, root=True, stdin=None)
        return (_LOOPBACK, port)

    def reboot(self, *, timeout_seconds: float = 300) -> None:
        """Restart in an orderly way and return once a kernel with another boot id answers."""
        login = self._require_login()
        before = login.boot_id()
        self._powered_on = time.monotonic()
        self._time_to_ready = None
        # The connection may be cut before the command has answered.
        login.run("systemctl reboot", root=True, check=False)
        login.close()

        def is_new(_patience_seconds: float) -> bool:
            return login.boot_id_or_none() not in (None, before)

        self._wait("restart", is_new, timeout_seconds)

    def control(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Run a QMP command."""
        return qmp.execute(self.machine.qmp, command, arguments)

    def save_logs(self, folder: Path) -> None:
        """Copy the serial console and QEMU's own messages to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in (self.serial_log, self._files.qemu_log):
            if path.exists() and path.parent != folder:
                shutil.copy(path, folder / path.name)

    def error(self, message: str) -> GuestError:
        """Return an error with the end of the console's output and where the rest is."""
        return GuestError(
            f"{message}; the last lines of its console:\n{tail(self.serial_log)}",
            hint=f"The whole console is in `{self.serial_log}`"
            if self._files.keeps_logs
            else "Give a folder for the logs to keep the whole console",
        )

    def _require_login(self) -> ssh.Login:
        if self._login is None:
            raise GuestError("This guest was started without a login, so no command can be run in it")
        return self._login

    def _wait(self, goal: str, reached: Callable[[float], bool], timeout_seconds: float) -> None:
        started = time.monotonic()
        attempt = 0
        # Mostly short tries: a connection that was opened before the guest's network was up may be
        # answered late. Every fourth is long, for a guest that is slow to answer.
        while not reached((1, 1, 1, 4)[attempt % 4]):
            self._check_alive()
            if time.monotonic() - started > timeout_seconds:
                raise self._too_late(goal, timeout_seconds)
            attempt += 1
            time.sleep(0.2)

    def _too_late(self, goal: str, timeout_seconds: float) -> GuestError:
        status = qmp.execute(self.machine.qmp, "query-status").get("status")
        if status == "io-error":
            return self.error(
                f"The guest stands still because `{self.disk}` could not be written: is the disk full?"
            )
        return self.error(
            f"The guest did not {goal} within {timeout_seconds:.0f} s (/readyz: {self._last_health})"
        )

    def _check_alive(self) -> None:
        if self._running is None:
            raise GuestError("The guest is switched off")
        code = self._running.poll()
        if code is None:
            return
        said = tail(self._files.qemu_log)
        for guest, host in self.machine.forward.items():
            # QEMU 7: "Could not set up host forwarding rule 'tcp:127.0.0.1:25-:25'".
            if f"127.0.0.1:{host}-" in said and "forwarding rule" in said:
                raise qemu.port_taken(host, guest)
        raise self.error(f"QEMU {process.describe_exit(code)} and took the guest with it:\n{said}")

    def __enter__(self) -> QemuGuest:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch off and delete every file of the guest; the logs stay where a folder was given."""
        self.stop()
        self._files.folders.close()


# The card is found by its address, because its name depends on the release. It takes a moment to appear, and
# udev renames it a moment later: a command with the first name then fails and is tried again.
_UP = f"""
for _ in $(seq 50); do
    udevadm settle --timeout=5
    card=$(ip -br link | awk '$3 == "{_MAC}" {{ print $1 }}')
    if [ -n "$card" ] && ip address replace {_SECOND_ADDRESS}/24 dev "$card" && ip link set "$card" up; then
        exit
    fi
    sleep 0.2
done
echo "the second network card did not appear" >&2
exit 1
"""


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log, indented; says so when there is nothing."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    kept = [line.rstrip() for line in text.replace("\r", "").splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line}" for line in kept) or "    (nothing)"

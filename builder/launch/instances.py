"""Relays under QEMU that outlive the command that started them: start, list, stop, start again.

Each has a file `ID.json` that says what it is, and a folder `ID/` with its disk, seed and console. A flush of
the guest reaches this machine's disk before the guest is told so: mail that was accepted stays. The disk
builds upon a hard link to the image, so that the queue on it outlives a new bake of that name.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock, Timeout

from builder import console, disk_image, process, scratch, workspace
from builder.errors import BuilderError, CommandError
from builder.launch import backing, health, qemu, qmp, seed
from builder.launch.accelerator import Accelerator, choose_accelerator
from builder.launch.guest import tail
from builder.launch.identity import new_identity
from builder.launch.interface import FORWARDED, HEALTH_PORT, SMTP_PORT, Address, GuestError
from builder.launch.qemu import Machine

SCHEMA = 1
Status = Literal["running", "stopped"]
_POLL_SECONDS = 0.02
_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("image", "socket", "started"), str),
    **dict.fromkeys(("memory_mib", "cpus", "pid"), int),
    "pid_created": (int, float),
    "is_linked": bool,
}


@dataclass(frozen=True)
class Instance:
    """One relay as its state file has it; `status` is looked up, not stored."""

    id: str
    image: str
    image_stamp: tuple[int, int]
    """Size and modification time (ns) of the image, whose blocks the disk builds upon."""
    folder: str
    socket: str
    ports: Mapping[int, int]
    accelerator: Accelerator
    memory_mib: int
    cpus: int
    started: str
    pid: int = 0
    pid_created: float = 0.0
    """When the process began: tells it from a later one with the same id."""
    is_linked: bool = False
    """Whether its folder has a link to the image; else the disk needs the image itself, at its place."""
    schema: int = field(default=SCHEMA)

    @property
    def status(self) -> Status:
        """Whether its QEMU runs."""
        return "running" if self._process() is not None else "stopped"

    @property
    def smtp_address(self) -> Address:
        """Where port 25 is reached on this machine."""
        return ("127.0.0.1", self.ports[SMTP_PORT])

    @property
    def health_address(self) -> Address:
        """Where the agent's health port is reached on this machine."""
        return ("127.0.0.1", self.ports[HEALTH_PORT])

    @property
    def serial_log(self) -> Path:
        """What the guest wrote to its console, over all its boots."""
        return Path(self.folder) / "serial.log"

    @property
    def disk(self) -> Path:
        """Its disk, with the queue on it."""
        return Path(self.folder) / "disk.qcow2"

    @property
    def backing_file(self) -> Path:
        """The file that its disk builds upon."""
        return Path(self.folder) / backing.LINK if self.is_linked else Path(self.image)

    @property
    def has_backing(self) -> bool:
        """Whether that file is there as it was at the launch; without it the disk cannot be read."""
        try:
            return backing.stamp(self.backing_file) == self.image_stamp
        except OSError:
            return False

    def _process(self) -> psutil.Process | None:
        try:
            found = psutil.Process(self.pid) if self.pid > 0 else None
            if found is None or found.status() == psutil.STATUS_ZOMBIE:
                return None
            return found if abs(found.create_time() - self.pid_created) < 1 else None
        except psutil.Error:
            return None

    def _machine(self) -> Machine:
        folder = Path(self.folder)
        return Machine(
            name=f"builder-{self.id}",
            accelerator=self.accelerator,
            disk=self.disk,
            seed=folder / "seed.iso",
            serial=self.serial_log,
            qmp=Path(self.socket),
            forward=self.ports,
            memory_mib=self.memory_mib,
            cpus=self.cpus,
            cache="writeback",
            pid_file=folder / "qemu.pid",
        )


def launch_instance(
    image: Path,
    *,
    user_data: str,
    folder: Path,
    accelerator: Accelerator | None = None,
    forward: Mapping[int, int] | None = None,
    public_key: str | None = None,
    memory_mib: int = 1024,
    cpus: int = 2,
) -> Instance:
    """Start a relay that goes on running; `folder` gets `ID.json` and `ID/`.

    `forward` maps ports of the guest to ports of this machine's loopback address, 0 for a free one.
    `public_key` lets its owner log in as `probe`. A start that fails leaves nothing. Errors: BuilderError.
    """
    qemu.find_qemu()
    checked = disk_image.check(image, disk_image.BAKED)
    identity = new_identity()
    home = folder / identity
    workspace.make_folder(folder)
    _clear_unfinished(folder)
    with _lock(home):
        home.mkdir()
        sockets = scratch.lasting("relay")
        try:
            qemu.check_free_space(home)
            if public_key is not None:
                user_data = seed.add_login(user_data, public_key)
            link = backing.link(image, home)
            instance = Instance(
                id=identity,
                image=str(image.resolve()),
                image_stamp=backing.stamp(link or image),
                folder=str(home.resolve()),
                socket=str(sockets / "qmp"),
                ports=qemu.choose_ports(forward or dict.fromkeys(FORWARDED, 0)),
                accelerator=accelerator or choose_accelerator(),
                memory_mib=memory_mib,
                cpus=cpus,
                started=_now(),
                is_linked=link is not None,
            )
            base = replace(checked, path=instance.backing_file)
            disk_image.create_overlay(base, instance.disk, moves_along=instance.is_linked)
            seed.write_seed(home / "seed.iso", user_data=user_data, instance_id=identity, work=home / "seed")
            return _power_on(instance)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            shutil.rmtree(sockets, ignore_errors=True)
            for path in (_state_file(home), _lock_file(home)):
                path.unlink(missing_ok=True)
            raise


def _clear_unfinished(folder: Path) -> None:
    """Delete what a launch left that was killed before it had written its state file."""
    for home in folder.glob("i-*/"):
        with contextlib.suppress(Timeout), FileLock(_lock_file(home), timeout=0):
            if not home.is_dir() or _state_file(home).exists():
                continue
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                running = psutil.Process(int((home / "qemu.pid").read_text(encoding="utf-8")))
                if any(str(home.resolve()) in word for word in running.cmdline()):
                    running.kill()
            shutil.rmtree(home, ignore_errors=True)


def list_instances(folder: Path) -> list[Instance]:
    """Return the instances that were started in a folder, oldest first; a spoilt file is warned about."""
    found = []
    for path in folder.glob("i-*.json"):
        try:
            found.append(_read(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            console.warn(
                f"`{path}` is not the state of a relay ({type(error).__name__}: {error}); if it still runs, "
                f"`{path.with_suffix('') / 'qemu.pid'}` has its process. Delete both to be rid of it"
            )
    return sorted(found, key=lambda instance: (instance.started, instance.id))


def find_instance(folder: Path, identity: str) -> Instance:
    """Return the instance with that id, or with the only id that begins so; BuilderError otherwise."""
    known = list_instances(folder)
    # An empty id is a shell variable that nobody set: it must not mean the only relay there is.
    matches = [instance for instance in known if identity and instance.id.startswith(identity)]
    if len(matches) == 1:
        return matches[0]
    said = "more than one instance begins with" if matches else "there is no instance"
    names = ", ".join(f"`{instance.id}`" for instance in known) or "none"
    raise BuilderError(f"In `{folder}` {said} `{identity}`; known: {names}")


def require_replaceable(images_dir: Path, name: str) -> None:
    """Check that no relay's disk needs the image NAME itself. Errors: BuilderError naming those that do."""
    folder = (images_dir / name).resolve()
    users = [
        instance.id
        for instance in list_instances(images_dir / workspace.INSTANCES)
        if not instance.is_linked and instance.has_backing and instance.backing_file.is_relative_to(folder)
    ]
    if users:
        named = ", ".join(f"`{user}`" for user in users)
        raise BuilderError(
            f"Image `{name}` cannot be replaced: the disks of {named} build upon it, "
            "and the mail in their queues would be lost",
            hint="Bake under another name with `--name`, or, once their queues are empty, "
            f"`builder instances delete {users[0]}`",
        )


def start_instance(instance: Instance) -> Instance:
    """Switch a stopped instance on again, with its disk and ports; BuilderError when it cannot."""
    if instance.status == "running":
        return instance
    if not instance.has_backing:
        raise BuilderError(
            f"`{instance.id}` cannot start: its disk builds upon `{instance.backing_file}`, "
            "which is gone or was replaced",
            hint="Put that image back, or launch a new instance from the new one",
        )
    qemu.check_free_space(Path(instance.folder))
    qemu.choose_ports(instance.ports)
    Path(instance.socket).parent.mkdir(mode=0o700, exist_ok=True)
    with _lock(Path(instance.folder)):
        return _power_on(replace(instance, started=_now()))


def stop_instance(instance: Instance, *, delete: bool = False, timeout_seconds: float = 90) -> None:
    """Shut an instance down in order, by force after `timeout_seconds`. Its disk stays unless `delete`."""
    home = Path(instance.folder)
    with _lock(home):
        running = instance._process()
        if running is not None:
            _end(instance, running, timeout_seconds)
        # Not `rmtree`: the path comes from a file that people can edit.
        with contextlib.suppress(OSError):
            Path(instance.socket).unlink(missing_ok=True)
            Path(instance.socket).parent.rmdir()
        if delete:
            shutil.rmtree(home, ignore_errors=True)
            _state_file(home).unlink(missing_ok=True)
    if delete:
        _lock_file(home).unlink(missing_ok=True)


def wait_instance_ready(instance: Instance, *, timeout_seconds: float = 300) -> float:
    """Wait until `/readyz` says 200 and return the seconds waited; GuestError has the last reason."""
    started = time.monotonic()
    last = "no answer yet"
    while time.monotonic() - started < timeout_seconds:
        status, text = health.ask(instance.health_address, timeout_seconds=2)
        if status == 200:
            return time.monotonic() - started
        if status:
            last = f"{status} {text}".strip()
        if instance.status == "stopped":
            raise _error(instance, f"`{instance.id}` has stopped")
        time.sleep(0.3)
    raise _error(
        instance, f"`{instance.id}` did not become ready within {timeout_seconds:.0f} s (/readyz: {last})"
    )


def _power_on(instance: Instance) -> Instance:
    """Start QEMU and write the state file; called with the lock held."""
    pid_file = Path(instance.folder) / "qemu.pid"
    pid_file.unlink(missing_ok=True)
    try:
        process.run(qemu.command_line(qemu.find_qemu(), instance._machine()))
    except CommandError as error:
        for guest, host in instance.ports.items():
            if f"127.0.0.1:{host}-" in error.output:
                raise qemu.port_taken(host, guest) from error
        raise _error(instance, f"QEMU could not start: {error.output.strip()}") from error
    pid = int(pid_file.read_text(encoding="utf-8"))
    try:
        instance = replace(instance, pid=pid, pid_created=psutil.Process(pid).create_time())
    except psutil.NoSuchProcess as error:
        raise _error(instance, f"`{instance.id}` ended as soon as it had started") from error
    _write(instance)
    return instance


def _end(instance: Instance, running: psutil.Process, timeout_seconds: float) -> None:
    """Press the power button; then ask QEMU to end (it writes what it holds); then kill it."""
    # A guest that still boots does not hear the button, so it is pressed again.
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(qmp.QmpError):
            qmp.execute(Path(instance.socket), "system_powerdown")
        if _gone(instance, min(10.0, timeout_seconds)):
            return
    for end in (running.terminate, running.kill):
        with contextlib.suppress(psutil.NoSuchProcess):
            end()
        if _gone(instance, 10):
            return
    raise BuilderError(f"QEMU of `{instance.id}`, process {running.pid}, does not end")


def _gone(instance: Instance, seconds: float) -> bool:
    # Not psutil's `wait`: that also waits until somebody takes note of the end, and the first process of a
    # container may do so late or never.
    deadline = time.monotonic() + seconds
    while instance.status == "running":
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[None]:
    try:
        with FileLock(_lock_file(home), timeout=120):
            yield
    except Timeout as error:
        raise BuilderError(f"Another command is starting or stopping `{home.name}`") from error


def _lock_file(home: Path) -> Path:
    return home.with_name(f".{home.name}.lock")


def _state_file(home: Path) -> Path:
    return home.with_name(f"{home.name}.json")


def _write(instance: Instance) -> None:
    path = _state_file(Path(instance.folder))
    half = path.with_suffix(".tmp")
    half.write_text(json.dumps(asdict(instance), indent=2) + "\n")
    half.replace(path)


def _read(path: Path) -> Instance:
    """Read a state file. Its folder is the one beside it, wherever the images were moved to."""
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    raw["ports"] = {int(guest): int(host) for guest, host in raw["ports"].items()}
    raw["accelerator"] = Accelerator(**raw["accelerator"])
    raw["image_stamp"] = tuple(raw["image_stamp"])
    raw["folder"] = str(path.with_suffix("").resolve())
    instance = Instance(**raw)
    if instance.schema != SCHEMA or instance.id != path.stem or not set(FORWARDED) <= raw["ports"].keys():
        raise ValueError("its schema, id or ports are not those of a relay")
    if not all(isinstance(value, _TYPES[name]) for name, value in raw.items() if name in _TYPES):
        raise TypeError("a value is of another type")
    return instance


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _error(instance: Instance, message: str) -> GuestError:
    return GuestError(
        f"{message}; the last lines of its console:\n{tail(instance.serial_log)}",
        hint=f"The whole console is in `{instance.serial_log}`",
    )

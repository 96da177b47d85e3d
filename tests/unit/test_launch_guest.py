"""A guest's life around a program that behaves like QEMU."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from builder.errors import BuilderError, ToolError
from builder.launch import GuestError, QemuGuest, launch_qemu
from builder.launch.accelerator import Accelerator
from builder.launch.qmp import QmpError
from tests.fakes import FakeTool, FakeTools

FAKE = Path(__file__).with_name("fake_qemu.py")
INFO = '{"format": "qcow2", "virtual-size": 4194304}'
TCG = Accelerator("tcg", "a test")
Order = Callable[..., FakeTool]
pytestmark = pytest.mark.allow_programs("setpriv", Path(sys.executable).name)


@pytest.fixture
def order(fake_tool: FakeTools, tmp_path: Path) -> Order:
    """Return a function that says what the fake QEMU does; the other programs do the least."""
    fake_tool(
        "qemu-img",
        f"""case $1 in
            info) echo '{INFO}' ;;
            check) echo '{{"image-end-offset": 0}}' ;;
            create) for last; do :; done; : >"$last" ;;
        esac""",
    )
    fake_tool("xorriso", 'while [ "$1" != -o ]; do shift; done; : >"$2"')
    fake_tool("ssh-keygen", 'for last; do :; done; : >"$last"; echo ssh-ed25519 AAAA builder >"$last.pub"')

    def give(**orders: Any) -> FakeTool:
        path = tmp_path / "orders.json"
        path.write_text(json.dumps(orders))
        return fake_tool("qemu-system-x86_64", f'exec "{sys.executable}" "{FAKE}" "{path}" "$@"')

    return give


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "relay.qcow2"
    path.write_bytes(b"QFI\xfb")
    return path


def _launch(image: Path, **options: Any) -> QemuGuest:
    return launch_qemu(image, user_data="#cloud-config\n", accelerator=TCG, **options)


def test_a_guest_becomes_ready_and_leaves_nothing_behind(order: Order, image: Path) -> None:
    order()
    with _launch(image) as guest:
        assert guest.time_to_ready is None
        seconds = guest.wait_ready(timeout_seconds=10)
        assert guest.time_to_ready == seconds
        assert guest.health() == (200, "ready")
        pid, work, sockets = guest.pid, guest.disk.parent, guest.machine.qmp.parent
        assert pid is not None
        assert work.exists()
    assert not psutil.pid_exists(pid)
    assert not work.exists()
    assert not sockets.exists()


def test_an_exception_in_the_block_leaves_nothing_behind_either(order: Order, image: Path) -> None:
    order()
    seen: list[Any] = []

    def interrupted() -> None:
        with _launch(image) as guest:
            seen.extend([guest.pid, guest.disk.parent])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not psutil.pid_exists(seen[0])
    assert not seen[1].exists()


def test_a_builder_that_is_killed_takes_its_guest_along_and_the_next_clears_up(
    order: Order, image: Path
) -> None:
    order()
    script = (
        "from pathlib import Path; from builder.launch import launch_qemu; import time\n"
        f"guest = launch_qemu(Path({str(image)!r}), user_data='#cloud-config')\n"
        "print(guest.pid, guest.disk.parent, guest.machine.qmp.parent, flush=True); time.sleep(60)"
    )
    builder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with builder:
        assert builder.stdout
        pid, *folders = builder.stdout.readline().split()
        assert _runs(int(pid))
        builder.kill()
    deadline = time.monotonic() + 5
    while _runs(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(int(pid))
    with _launch(image):
        assert not any(Path(folder).exists() for folder in folders)


def _runs(pid: int) -> bool:
    # Nobody may be there to take note of its end, so a zombie has ended too.
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_power_cut_ends_qemu_and_starts_it_on_the_same_disk(order: Order, image: Path) -> None:
    qemu = order()
    with _launch(image) as guest:
        before = guest.pid
        guest.wait_ready(timeout_seconds=10)
        guest.power_cut()
        assert guest.time_to_ready is None
        assert guest.pid != before
        guest.wait_ready(timeout_seconds=10)
    assert qemu.calls[0] == qemu.calls[1]


def test_the_power_button_ends_a_guest_that_hears_it(order: Order, image: Path) -> None:
    order()
    with _launch(image) as guest:
        guest.shut_down(timeout_seconds=10)
        assert guest.pid is None
        with pytest.raises(GuestError, match="switched off"):
            guest.run("true")


def test_a_guest_that_ignores_the_power_button_is_named(order: Order, image: Path) -> None:
    order(ignores_power_button=True)
    with _launch(image) as guest, pytest.raises(GuestError, match="did not shut down within 0 s"):
        guest.shut_down(timeout_seconds=0.3)


def test_not_ready_in_time_shows_the_reason_the_console_and_where_it_is(
    order: Order, image: Path, tmp_path: Path
) -> None:
    order(readyz_status=503, readyz="the secret `relay/ses` is missing", console="one\r\ntwo\r\n")
    logs = tmp_path / "logs"
    with _launch(image, logs=logs) as guest, pytest.raises(GuestError) as caught:
        guest.wait_ready(timeout_seconds=0.5)
    assert "/readyz: 503 the secret `relay/ses` is missing" in caught.value.message
    assert caught.value.message.endswith("    one\n    two")
    assert caught.value.hint == f"The whole console is in `{logs / 'serial.log'}`"
    assert (logs / "serial.log").read_text() == "one\ntwo\n"


def test_a_guest_that_dies_is_told_from_one_that_is_slow(order: Order, image: Path) -> None:
    order(readyz_status=503, dies_later=0.5, console="Kernel panic\n")
    with _launch(image) as guest, pytest.raises(GuestError, match="failed with exit code 1") as caught:
        guest.wait_ready(timeout_seconds=10)
    assert "Kernel panic" in caught.value.message


def test_a_full_disk_of_this_machine_is_named(order: Order, image: Path) -> None:
    order(readyz_status=503, status="io-error")
    with _launch(image) as guest, pytest.raises(GuestError, match="is the disk full"):
        guest.wait_ready(timeout_seconds=0.3)


def test_a_port_that_qemu_cannot_have_is_named(order: Order, image: Path) -> None:
    order(dies="qemu: Could not set up host forwarding rule '{forward}'")
    with pytest.raises(BuilderError, match=r"Port \d+ of this machine.*port 25 of the guest") as caught:
        _launch(image)
    assert "ss -ltnp" in (caught.value.hint or "")


def test_what_qemu_said_when_it_refused_is_shown(order: Order, image: Path) -> None:
    order(dies="qemu: invalid accelerator tcg")
    with pytest.raises(GuestError, match="invalid accelerator tcg"):
        _launch(image)


def test_a_given_port_that_is_taken_is_refused_before_qemu_starts(order: Order, image: Path) -> None:
    qemu = order()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BuilderError, match=f"Port {port} of this machine"):
            _launch(image, forward={25: port})
    assert qemu.calls == []


def test_no_qemu_names_the_apt_line(fake_tool: FakeTools, image: Path) -> None:
    fake_tool("qemu-img")
    fake_tool.only()
    with pytest.raises(ToolError) as caught:
        _launch(image)
    assert "apt install qemu-system-x86" in (caught.value.hint or "")


def test_a_login_is_a_user_of_its_own_in_the_user_data(order: Order, image: Path) -> None:
    order()
    with _launch(image, login=True) as guest:
        user_data = (guest.disk.parent / "seed" / "user-data").read_text()
        meta_data = (guest.disk.parent / "seed" / "meta-data").read_text()
    assert user_data.startswith("#cloud-config\n")
    assert "name: probe" in user_data
    assert "ssh-ed25519 AAAA" in user_data
    assert re.fullmatch(r"instance-id: i-[0-9a-f]{12}\n", meta_data)


def test_without_a_login_no_command_can_be_run(order: Order, image: Path) -> None:
    order()
    with _launch(image) as guest, pytest.raises(GuestError, match="started without a login"):
        guest.run("true")


def test_a_command_runs_through_ssh_and_as_root_through_sudo(
    order: Order, image: Path, fake_tool: FakeTools
) -> None:
    order()
    fake_tool("ssh", """printf '%s\\n' "$@" """)
    with _launch(image, login=True) as guest:
        as_user = guest.run("id").stdout.splitlines()
        as_root = guest.run("cat 'a b'", root=True).stdout.splitlines()
        port = str(guest.machine.forward[22])
    assert as_user[-2:] == ["--", "id"]
    assert as_user[as_user.index("-p") + 1] == port
    assert as_root[-1] == "sudo -n -- sh -c 'cat '\"'\"'a b'\"'\"''"


def test_a_reboot_is_proved_by_another_boot_id(order: Order, image: Path, fake_tool: FakeTools) -> None:
    order()
    fake_tool(
        "ssh",
        """case "$*" in
            *systemctl*) : >"$(dirname "$0")/rebooted" ;;
            *boot_id*) [ -e "$(dirname "$0")/rebooted" ] && echo second || echo first ;;
        esac""",
    )
    with _launch(image, login=True) as guest:
        guest.reboot(timeout_seconds=10)


def test_a_guest_that_does_not_restart_is_named(order: Order, image: Path, fake_tool: FakeTools) -> None:
    order()
    fake_tool("ssh", "echo same")
    with _launch(image, login=True) as guest, pytest.raises(GuestError, match="did not restart within 1 s"):
        guest.reboot(timeout_seconds=1)


def test_a_refused_control_command_says_why(order: Order, image: Path) -> None:
    order()
    with _launch(image) as guest, pytest.raises(QmpError, match="refused `refuse-this`: not today"):
        guest.control("refuse-this")


def test_a_hung_guest_does_not_make_the_end_slow(order: Order, image: Path) -> None:
    order(ignores_power_button=True, readyz_status=503)
    guest = _launch(image)
    started = time.monotonic()
    guest.close()
    assert time.monotonic() - started < 5

"""A real guest on the Debian 12 base: login, second network, power cut, reboot, what stays on its disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from builder import base_build
from builder.hygiene import inspect_image
from builder.launch import QemuGuest, launch_qemu
from builder.verify.relay import greeting

# A boot takes 40 s under software emulation, and minutes where other guests share the processors.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]
BOOT_SECONDS = 500


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QemuGuest]:
    """One guest for all tests of this module, which go on from each other."""
    image = base_build.ensure("debian-12").path
    logs = tmp_path_factory.mktemp("logs")
    with launch_qemu(image, user_data="#cloud-config\n", login=True, logs=logs) as guest:
        guest.wait_ssh(timeout_seconds=BOOT_SECONDS)
        yield guest
        pid, work = guest.pid, guest.disk.parent
    assert pid is None or not psutil.pid_exists(pid)
    assert not work.exists()


def test_a_command_runs_as_the_user_and_as_root(guest: QemuGuest) -> None:
    assert guest.run("id -un").stdout == "probe\n"
    assert guest.run("id -un", root=True).stdout == "root\n"
    assert guest.run("cat", stdin="from outside").stdout == "from outside"


def test_a_second_network_reaches_the_guest_from_an_address_outside_the_first(guest: QemuGuest) -> None:
    guest.run(
        "systemd-run --quiet --unit=listener python3 -c "
        "\"import socket; s = socket.create_server(('', 25))\nwhile True:\n"
        " c, a = s.accept(); c.sendall(('220 %s' % a[0]).encode()); c.close()\"",
        root=True,
    )
    guest.run("for n in $(seq 50); do ss -Hltn | grep -q :25 && exit 0; sleep 0.2; done; exit 1")
    outside = guest.add_outside_address()
    assert greeting(guest.smtp_address, timeout_seconds=20) == "220 10.0.2.2"
    assert greeting(outside, timeout_seconds=20) == "220 10.0.3.2"


def test_a_power_cut_keeps_what_was_flushed_and_nothing_else(guest: QemuGuest) -> None:
    guest.run("echo flushed > /root/flushed; sync; echo lost > /root/lost", root=True)
    guest.power_cut()
    guest.wait_ssh(timeout_seconds=BOOT_SECONDS)
    assert guest.run("ls /root", root=True).stdout.split() == ["flushed"]


def test_a_reboot_is_another_boot_of_the_same_disk(guest: QemuGuest) -> None:
    before = guest.run("cat /proc/sys/kernel/random/boot_id").stdout
    guest.reboot(timeout_seconds=BOOT_SECONDS)
    assert guest.run("cat /proc/sys/kernel/random/boot_id").stdout != before
    assert guest.run("cat /root/flushed", root=True).stdout == "flushed\n"


def test_what_a_boot_leaves_is_seen_from_outside(guest: QemuGuest) -> None:
    guest.run("sync", root=True)
    guest.stop()
    failed = {each.name: each.evidence for each in inspect_image(guest.disk) if not each.holds}
    assert {
        "no-host-keys",
        "machine-id-empty",
        "no-bake-user",
        "no-authorized-keys",
        "no-cloud-init-state",
        "no-logs",
        "no-private-keys",
    } <= set(failed)
    assert "/etc/ssh/ssh_host_ed25519_key" in failed["no-private-keys"]
    assert "user `probe`" in failed["no-bake-user"]


def test_the_image_itself_was_not_written_to(guest: QemuGuest) -> None:
    base = base_build.ensure("debian-12")
    assert Path(base.path).stat().st_size == base.size_bytes
    assert base.sha256 == base_build.ensure("debian-12").sha256

"""A base built from packages boots, grows to its disk, and lets nobody in who was not invited."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import base_build, process
from builder.launch import QemuGuest, launch_qemu
from builder.releases import RELEASES

# A boot takes 50 s under software emulation on a quiet machine, and minutes where others share it.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(2400)]
BOOT_SECONDS = 600
DISK_GIB = 6
BUILT = [release.name for release in RELEASES.values() if release.family == "debian"]


def _release(name: str) -> object:
    """Debian 12 in every run of the VM tests, the others with `releases`."""
    return name if name == "debian-12" else pytest.param(name, marks=pytest.mark.releases)


@pytest.fixture(scope="module", params=[_release(name) for name in BUILT])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QemuGuest]:
    """A guest of each release on a disk that is larger than its base."""
    base = base_build.ensure(request.param)
    folder = tmp_path_factory.mktemp("base")
    disk = folder / "disk.qcow2"
    shutil.copyfile(base.path, disk)
    process.run(["qemu-img", "resize", "-q", disk, f"{DISK_GIB}G"])
    with launch_qemu(disk, user_data="#cloud-config\n", login=True, logs=folder) as guest:
        guest.wait_ssh(timeout_seconds=BOOT_SECONDS)
        # What follows looks at the end of the first boot, not at its middle.
        guest.run("cloud-init status --wait", root=True, timeout_seconds=BOOT_SECONDS)
        yield guest


def test_partition_and_file_system_grow_to_the_disk(guest: QemuGuest) -> None:
    assert int(guest.run("df --output=size -BM / | tail -n 1 | tr -d 'M '").stdout) > (DISK_GIB - 1) * 1024
    # The backup of the partition table moved to the new end.
    assert "No errors detected" in guest.run("sfdisk --verify /dev/vda", root=True).stdout


def test_cloud_init_and_every_unit_are_content(guest: QemuGuest) -> None:
    status = guest.run("cloud-init status --long", root=True).stdout
    assert "status: done" in status
    assert guest.run("systemctl --failed --no-legend --plain").stdout == ""


def test_root_is_locked_and_no_account_has_a_password(guest: QemuGuest) -> None:
    assert guest.run("passwd --status root", root=True).stdout.split()[1] == "L"
    hashes = guest.run("cut -d: -f2 /etc/shadow", root=True).stdout.split()
    assert all(each.startswith(("*", "!")) for each in hashes)


def test_ssh_refuses_root_and_passwords(guest: QemuGuest) -> None:
    settings = guest.run("sshd -T", root=True).stdout.splitlines()
    assert "passwordauthentication no" in settings
    assert "permitrootlogin without-password" in settings or "permitrootlogin no" in settings
    key = guest.key
    assert key is not None
    argv: list[str | Path] = ["ssh", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
    argv += ["-o", "UserKnownHostsFile=/dev/null", "-p", str(guest.machine.forward[22]), "root@127.0.0.1"]
    assert process.run([*argv, "true"], check=False, timeout_seconds=60).returncode == 255


def test_machine_id_and_host_keys_are_this_guests_own(guest: QemuGuest) -> None:
    assert len(guest.run("cat /etc/machine-id").stdout.strip()) == 32
    archive = base_build.rootfs_tar(_name(guest))
    listed = process.run(["tar", "--list", "--file", archive], timeout_seconds=120).stdout
    assert "./etc/machine-id\n" in listed
    assert "ssh_host_" not in listed
    assert "ssh_host_ed25519_key" in guest.run("ls /etc/ssh").stdout


def test_the_serial_console_shows_the_boot_from_the_kernel_to_the_login(guest: QemuGuest) -> None:
    console = guest.serial_log.read_text(errors="replace")
    assert "Linux version" in console
    assert "ttyS0" in console
    assert "login:" in console


def test_both_boot_loaders_and_the_mirror_of_the_build_are_in_place(guest: QemuGuest) -> None:
    partitions = guest.run("lsblk --noheadings --raw --output NAME,PARTTYPE /dev/vda").stdout.lower()
    assert "21686148-6449-6e6f-744e-656564454649" in partitions
    assert "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" in partitions
    assert "/boot/efi" in guest.run("findmnt --noheadings --output TARGET /boot/efi").stdout
    sources = guest.run("cat /etc/apt/sources.list").stdout
    assert RELEASES[_name(guest)].codename in sources
    # What a kernel upgrade does: it must find this disk's own settings.
    guest.run("update-grub", root=True, timeout_seconds=300)
    root = guest.run("findmnt --noheadings --output UUID /").stdout.strip()
    config = guest.run(f"grep -c {shlex.quote('root=UUID=' + root)} /boot/grub/grub.cfg", root=True).stdout
    assert int(config) >= 1


def _name(guest: QemuGuest) -> str:
    fields = dict(
        line.split("=", 1) for line in guest.run("cat /etc/os-release").stdout.splitlines() if "=" in line
    )
    return f"debian-{fields['VERSION_ID'].strip(chr(34))}"

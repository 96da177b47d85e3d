"""The disk of a built base: partitions, boot loaders, identifiers."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest

from builder import base_disk
from builder.base_disk import DiskIds
from builder.errors import BuilderError
from builder.releases import get_release
from tests.fakes import FakeTools

IDS = DiskIds("debian-12/packages")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder with the files that the disk is made from."""
    root = tmp_path / "root"
    for name, content in {
        "boot/vmlinuz-6.1.0-9-cloud-amd64": b"kernel",
        "boot/initrd.img-6.1.0-9-cloud-amd64": b"initramfs",
        "boot/grub/i386-pc/core.img": bytes(1024),
        "etc/default/locale": b"",
        "usr/lib/grub/i386-pc/boot.img": b"\xaa" * 512,
        "usr/lib/grub/i386-pc/normal.mod": b"module",
        "usr/lib/grub/i386-pc/kernel.img": b"not copied",
        "usr/lib/shim/shimx64.efi.signed": b"shim",
        "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": b"grub",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_the_same_packages_give_the_same_identifiers_and_others_others() -> None:
    assert DiskIds("a").of("root fs") == DiskIds("a").of("root fs")
    assert DiskIds("a").of("root fs") != DiskIds("b").of("root fs")
    parts = {IDS.of(part) for part in ("disk", "root", "bios", "efi", "root fs")}
    assert len(parts) == 5
    assert all(str(uuid.UUID(part)) == part for part in parts)


def test_partitions_lie_as_in_debians_cloud_images_and_fill_the_disk() -> None:
    lines = base_disk.partition_table(IDS).splitlines()
    assert lines[0] == "label: gpt"
    assert [line.split(",")[0] for line in lines[3:]] == [
        "1 : start=262144",
        "14 : start=2048",
        "15 : start=8192",
    ]
    assert base_disk.BIOS_START + base_disk.BIOS_SECTORS == base_disk.EFI_START
    assert base_disk.EFI_START + base_disk.EFI_SECTORS == base_disk.ROOT_START
    # The backup of the table needs 33 sectors at the end.
    end = base_disk.ROOT_START + base_disk.ROOT_SECTORS
    assert end <= base_disk.DISK_MIB * 2048 - 33


def test_grub_starts_the_kernel_on_both_consoles_without_a_menu(root: Path) -> None:
    config = base_disk.grub_config(base_disk.kernel_version(root), IDS)
    assert "set timeout=0\n" in config
    assert (
        f"linux /boot/vmlinuz-6.1.0-9-cloud-amd64 root=UUID={IDS.of('root fs')} ro "
        "console=tty0 console=ttyS0,115200" in config
    )
    assert "initrd /boot/initrd.img-6.1.0-9-cloud-amd64\n" in config


def test_a_root_without_a_kernel_is_an_error(root: Path) -> None:
    (root / "boot/initrd.img-6.1.0-9-cloud-amd64").unlink()
    with pytest.raises(BuilderError, match="No kernel with an initramfs"):
        base_disk.kernel_version(root)


def test_boot_files_name_the_file_systems_by_uuid(root: Path, fake_tool: FakeTools) -> None:
    chroot = fake_tool("chroot")
    base_disk.write_boot_files(root, get_release("debian-12"), IDS)
    fstab = (root / "etc/fstab").read_text()
    assert f"UUID={IDS.of('root fs')} / ext4 " in fstab
    assert f"UUID={IDS.efi_serial[:4].upper()}-{IDS.efi_serial[4:].upper()} /boot/efi vfat" in fstab
    assert 'GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200' in (root / "etc/default/grub").read_text()
    assert (root / "boot/grub/i386-pc/normal.mod").read_bytes() == b"module"
    assert not (root / "boot/grub/i386-pc/kernel.img").exists()
    assert not (root / "boot/grub/early.cfg").exists()
    [call] = chroot.calls
    assert call[:2] == [str(root), "grub-mkimage"]
    assert "search_fs_uuid" in call


def test_the_boot_sector_points_to_grub_and_keeps_the_partition_table(root: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"\x11" * 512 + bytes(4096 * 512))
    base_disk.install_bios_grub(root, disk)
    written = disk.read_bytes()
    assert struct.unpack_from("<Q", written, 0x5C)[0] == base_disk.BIOS_START
    assert written[0x66:0x68] == b"\x90\x90"
    assert written[440:512] == b"\x11" * 72
    core = base_disk.BIOS_START * base_disk.SECTOR
    assert struct.unpack_from("<Q", written, core + 500)[0] == base_disk.BIOS_START + 1


def test_a_core_image_that_is_too_big_is_an_error(root: Path, tmp_path: Path) -> None:
    with (root / "boot/grub/i386-pc/core.img").open("wb") as core:
        core.truncate(4 * base_disk.MIB)
    with pytest.raises(BuilderError, match="too big for its partition"):
        base_disk.install_bios_grub(root, tmp_path / "disk")


@pytest.mark.parametrize("name", ["debian-12", "ubuntu-24.04"])
def test_efi_starts_the_signed_files_and_finds_the_root(root: Path, name: str) -> None:
    release = get_release(name)
    files = base_disk.efi_files(root, release, IDS)
    assert files["EFI/BOOT/BOOTX64.EFI"] == b"shim"
    assert files["EFI/BOOT/grubx64.efi"] == b"grub"
    stub = files[f"EFI/{release.family}/grub.cfg"].decode()
    assert stub.startswith(f"search.fs_uuid {IDS.of('root fs')} root\n")


def test_a_disk_is_made_with_features_that_old_boot_loaders_read(
    root: Path, tmp_path: Path, fake_tool: FakeTools
) -> None:
    tools = {name: fake_tool(name) for name in ("sfdisk", "mformat", "mcopy", "mke2fs")}
    disk = tmp_path / "disk.raw"
    base_disk.make_disk(root, disk, get_release("debian-12"), IDS, epoch=1)
    assert disk.stat().st_size == 4096 * base_disk.MIB
    [mke2fs] = tools["mke2fs"].calls
    features = mke2fs[mke2fs.index("-O") + 1].split(",")
    assert features[0] == "none"
    assert not {"metadata_csum_seed", "orphan_file"} & set(features)
    assert f"offset={262144 * 512}" in mke2fs[mke2fs.index("-E") + 1]
    assert mke2fs[mke2fs.index("-d") + 1] == str(root)
    assert mke2fs[-1] == f"{base_disk.ROOT_SECTORS // 2}k"
    assert tools["mformat"].calls[0][:2] == ["-i", f"{disk}@@{8192 * 512}"]
    assert (tmp_path / "efi/EFI/BOOT/BOOTX64.EFI").read_bytes() == b"shim"

"""Make a bootable disk from a root folder: GPT, BIOS and EFI boot loaders, an ext4 root that grows."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder import process
from builder.errors import BuilderError
from builder.releases import Release

SECTOR = 512
MIB = 1 << 20
DISK_MIB = 4096
# As in Debian's cloud images: the root partition has number 1 and lies last, so that it can grow.
BIOS_START, BIOS_SECTORS = 2048, 3 * MIB // SECTOR
EFI_START, EFI_SECTORS = 8192, 124 * MIB // SECTOR
ROOT_START = 262144
ROOT_SECTORS = (DISK_MIB - 1) * MIB // SECTOR - ROOT_START

CMDLINE = "console=tty0 console=ttyS0,115200 consoleblank=0"

# Every feature is named, so that the host's mke2fs.conf has no say. Left out are those that the GRUB
# of older releases cannot read (metadata_csum_seed, orphan_file: GRUB 2.12).
_EXT4_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,"
    "large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
)
_BIOS_MODULES = ("biosdisk", "part_gpt", "ext2", "search_fs_uuid")
_TYPES = {
    "root": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    "bios": "21686148-6449-6E6F-744E-656564454649",
    "efi": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
}
_NAMESPACE = uuid.UUID("5b1d2f6e-3c0a-4d5e-9a53-6f6d0c2f7a11")


@dataclass(frozen=True)
class DiskIds:
    """The identifiers of a disk; the same seed gives the same ones."""

    seed: str

    def of(self, part: str) -> str:
        """Return the UUID of `disk`, or of the partition or file system `part`."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.seed}/{part}"))

    @property
    def efi_serial(self) -> str:
        """The serial number of the FAT file system, 8 hexadecimal digits."""
        return self.of("efi fs").replace("-", "")[:8]


def write_boot_files(root: Path, release: Release, ids: DiskIds) -> None:
    """Write fstab, GRUB's files and configuration into the root folder.

    grub.cfg is written here and not by `update-grub`, which would look at this machine's disks; the
    first `update-grub` in the guest replaces it and finds the same settings in /etc/default/grub.
    """
    serial = f"{ids.efi_serial[:4]}-{ids.efi_serial[4:]}".upper()
    (root / "boot/efi").mkdir(parents=True, exist_ok=True)
    (root / "etc/fstab").write_text(
        f"UUID={ids.of('root fs')} / ext4 rw,discard,errors=remount-ro 0 1\n"
        f"UUID={serial} /boot/efi vfat umask=0077 0 0\n"
    )
    (root / "etc/default/grub").write_text(
        "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\n"
        f'GRUB_DISTRIBUTOR="{release.family.capitalize()}"\n'
        f'GRUB_CMDLINE_LINUX_DEFAULT=""\nGRUB_CMDLINE_LINUX="{CMDLINE}"\n'
        'GRUB_TERMINAL="console serial"\nGRUB_SERIAL_COMMAND="serial --speed=115200"\n'
    )
    grub = root / "boot/grub"
    grub.mkdir(parents=True, exist_ok=True)
    (grub / "grub.cfg").write_text(grub_config(kernel_version(root), ids))
    early = grub / "early.cfg"
    early.write_text(f"search.fs_uuid {ids.of('root fs')} root\nset prefix=($root)/boot/grub\n")
    _copy_modules(root)
    process.run(
        [
            "chroot", root, "grub-mkimage",
            "--format=i386-pc",
            "--directory=/usr/lib/grub/i386-pc",
            "--prefix=/boot/grub",
            "--config=/boot/grub/early.cfg",
            "--output=/boot/grub/i386-pc/core.img",
            *_BIOS_MODULES,
        ]
    )  # fmt: skip
    early.unlink()


def grub_config(kernel: str, ids: DiskIds) -> str:
    """Write grub.cfg: no menu, both consoles, root by UUID."""
    return (
        "serial --unit=0 --speed=115200\n"
        "terminal_input console serial\nterminal_output console serial\n"
        "set timeout=0\n"
        f"search --no-floppy --fs-uuid --set=root {ids.of('root fs')}\n"
        f"menuentry 'Linux {kernel}' {{\n"
        f"    linux /boot/vmlinuz-{kernel} root=UUID={ids.of('root fs')} ro {CMDLINE}\n"
        f"    initrd /boot/initrd.img-{kernel}\n"
        "}\n"
    )


def kernel_version(root: Path) -> str:
    """Return the version of the one kernel in the root folder; BuilderError when it has none."""
    kernels = sorted((root / "boot").glob("vmlinuz-*"))
    if not kernels or not list((root / "boot").glob("initrd.img-*")):
        raise BuilderError(f"No kernel with an initramfs was installed into `{root / 'boot'}`")
    return kernels[-1].name.removeprefix("vmlinuz-")


def make_disk(root: Path, disk: Path, release: Release, ids: DiskIds, *, epoch: int) -> None:
    """Make a raw disk image of `DISK_MIB` from the root folder; `epoch` dates the file systems."""
    env = {"SOURCE_DATE_EPOCH": str(epoch), "E2FSPROGS_FAKE_TIME": str(epoch)}
    with disk.open("wb") as stream:
        stream.truncate(DISK_MIB * MIB)
    process.run(["sfdisk", "--quiet", disk], stdin=partition_table(ids), env=env)
    install_bios_grub(root, disk)
    _make_efi(root, disk, release, ids, env)
    root_fs = ids.of("root fs")
    process.run(
        [
            "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root", "-U", root_fs,
            "-O", _EXT4_FEATURES,
            # Written out now, so that no guest does it in the background of its first boot.
            "-E", f"offset={ROOT_START * SECTOR},hash_seed={root_fs},"
            "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
            "-d", root, disk, f"{ROOT_SECTORS * SECTOR // 1024}k",
        ],
        env=env,
        timeout_seconds=600,
    )  # fmt: skip


def partition_table(ids: DiskIds) -> str:
    """Write the partition table as a script for sfdisk(8)."""
    rows = (
        (1, "root", ROOT_START, ROOT_SECTORS),
        (14, "bios", BIOS_START, BIOS_SECTORS),
        (15, "efi", EFI_START, EFI_SECTORS),
    )
    lines = [
        f"{number} : start={start}, size={size}, type={_TYPES[kind]}, uuid={ids.of(kind)}"
        for number, kind, start, size in rows
    ]
    return "\n".join(["label: gpt", f"label-id: {ids.of('disk')}", "unit: sectors", *lines, ""])


def install_bios_grub(root: Path, disk: Path) -> None:
    """Put GRUB's boot sector and core image where a BIOS finds them.

    What grub-bios-setup does, without a block device: the boot sector holds the sector of the core
    image, whose first sector holds that of the rest. Offsets: include/grub/i386/pc/boot.h
    (KERNEL_SECTOR 0x5c, DRIVE_CHECK 0x66) and the block list at the end of diskboot.S.
    """
    folder = root / "usr/lib/grub/i386-pc"
    boot = bytearray((folder / "boot.img").read_bytes())
    core = bytearray((root / "boot/grub/i386-pc/core.img").read_bytes())
    if len(core) > BIOS_SECTORS * SECTOR:
        raise BuilderError(f"GRUB's core image is too big for its partition: {len(core)} bytes")
    struct.pack_into("<Q", boot, 0x5C, BIOS_START)
    boot[0x66:0x68] = b"\x90\x90"  # trust the drive number that the BIOS gives
    struct.pack_into("<Q", core, SECTOR - 12, BIOS_START + 1)
    with disk.open("r+b") as stream:
        stream.write(boot[:440])  # after that comes the partition table
        stream.seek(BIOS_START * SECTOR)
        stream.write(core)


def to_qcow2(disk: Path, image: Path) -> None:
    """Convert a raw disk to qcow2; holes and zeros take no room."""
    process.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, image], timeout_seconds=600)


def _copy_modules(root: Path) -> None:
    target = root / "boot/grub/i386-pc"
    target.mkdir(exist_ok=True)
    for source in (root / "usr/lib/grub/i386-pc").iterdir():
        if source.suffix in (".mod", ".lst"):
            (target / source.name).write_bytes(source.read_bytes())


def efi_files(root: Path, release: Release, ids: DiskIds) -> Mapping[str, bytes]:
    """Return what the EFI system partition holds: the signed shim and GRUB under the removable path.

    The signed GRUB reads `/EFI/<distribution>/grub.cfg`, which leads it to the root file system.
    """
    shim = root / "usr/lib/shim/shimx64.efi.signed"
    grub = root / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
    stub = (
        f"search.fs_uuid {ids.of('root fs')} root\n"
        "set prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n"
    )
    return {
        "EFI/BOOT/BOOTX64.EFI": shim.read_bytes(),
        "EFI/BOOT/grubx64.efi": grub.read_bytes(),
        f"EFI/{release.family}/grub.cfg": stub.encode(),
    }


def _make_efi(root: Path, disk: Path, release: Release, ids: DiskIds, env: Mapping[str, str]) -> None:
    target = f"{disk}@@{EFI_START * SECTOR}"
    files = efi_files(root, release, ids)
    staged = disk.with_name("efi")
    process.run(
        ["mformat", "-i", target, "-F", "-T", str(EFI_SECTORS), "-h", "64", "-s", "32",
         "-N", ids.efi_serial, "-v", "EFI", "::"],
        env=env,
    )  # fmt: skip
    with disk.open("r+b") as stream:
        # mformat writes a partition table into the boot sector, which grub-probe then complains of.
        stream.seek(EFI_START * SECTOR + 446)
        stream.write(bytes(64))
    for name, content in files.items():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).write_bytes(content)
    process.run(["mcopy", "-i", target, "-s", staged / "EFI", "::"], env=env)

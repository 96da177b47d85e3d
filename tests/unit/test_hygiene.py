"""What a bake can leave in an image is found on a real ext4 file system; a sealed one passes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from builder import disk, process
from builder.errors import BuilderError
from builder.hygiene import ASSERTIONS, Assertion, inspect_image, inspect_raw

MIB = 2**20
# Never a key: the shape of one.
PRIVATE_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\n" + ("b3BlbnNzaC1r" * 5 + "\n") * 3 + "-----END-----\n"
SEALED = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "etc/shadow": "root:*:20000:0:99999:7:::\npostfix:!:20000::::::\n",
    "etc/machine-id": "",
    "etc/hostname": "localhost\n",
    "etc/sudoers.d/README": "about sudo\n",
    "etc/postfix/master.cf": "#smtp inet n - y - - smtpd\npickup unix n - y 60 1 pickup\n",
    "etc/postfix/sasl/.keep/": "",
    "root/.bashrc": "# bash\n",
    "var/log/wtmp": "",
    "var/lib/apt/lists/lock": "",
    "var/lib/cloud/scripts/per-boot/": "",
    "var/spool/postfix/maildrop/": "",
    "usr/bin/sshd": "-----BEGIN OPENSSH PRIVATE KEY-----\n no body\n AKIAIOSFODNN7EXAMPLE\n",
}


def _make_disk(folder: Path, extra: dict[str, str]) -> Path:
    tree = folder / "tree"
    for path, text in {**SEALED, **extra}.items():
        target = tree / path
        if path.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
        elif text.startswith("-> "):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(text[3:])
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    raw = folder / "disk.raw"
    process.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, raw, "12M"])
    return raw


def _failed(found: list[Assertion]) -> dict[str, str]:
    return {each.name: each.evidence for each in found if not each.holds}


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_a_sealed_image_passes_every_assertion(tmp_path: Path) -> None:
    found = inspect_raw(_make_disk(tmp_path, {}))
    assert _failed(found) == {}
    assert [each.name for each in found] == list(ASSERTIONS)


@pytest.mark.allow_programs("mke2fs", "debugfs")
@pytest.mark.parametrize(
    ("name", "path", "text"),
    [
        ("no-host-keys", "etc/ssh/ssh_host_ed25519_key.pub", "ssh-ed25519 AAAA"),
        ("machine-id-empty", "etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("machine-id-empty", "var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("no-bake-user", "etc/passwd", "bake:x:1000:1000::/home/bake:/bin/bash\n"),
        ("no-bake-user", "etc/passwd-", "bake:x:1000:1000::/home/bake:/bin/bash\n"),
        ("no-bake-user", "home/bake/.profile", "# profile\n"),
        ("no-bake-user", "etc/sudoers.d/90-cloud-init-users", "bake ALL=(ALL) NOPASSWD:ALL\n"),
        ("no-passwords", "etc/shadow", "root:$6$salt$hash:20000:0:99999:7:::\n"),
        ("no-passwords", "etc/shadow", "guest::20000:0:99999:7:::\n"),
        ("no-authorized-keys", "root/.ssh/authorized_keys", "ssh-ed25519 AAAA\n"),
        ("no-authorized-keys", "root/.ssh/id_rsa", "a key\n"),
        ("no-cloud-init-state", "var/lib/cloud/instances/i-1/boot-finished", "done\n"),
        ("no-cloud-init-state", "var/lib/cloud/seed/nocloud/user-data", "#cloud-config\n"),
        ("no-cloud-init-state", "var/lib/cloud/instance", "-> instances/i-1"),
        ("no-network-names", "etc/netplan/50-cloud-init.yaml", "network: {}\n"),
        ("no-network-names", "etc/udev/rules.d/70-persistent-net.rules", "SUBSYSTEM\n"),
        ("no-logs", "var/log/apt/history.log", "Start-Date\n"),
        ("no-logs", "var/log/journal/0123/system.journal", "LPKSHHRH\n"),
        ("no-apt-lists", "var/lib/apt/lists/deb_dists_Packages", "Package: a\n"),
        ("no-apt-lists", "var/cache/apt/archives/a_1_all.deb", "!<arch>\n"),
        ("no-apt-lists", "etc/apt/apt.conf.d/90proxy", "Acquire\n"),
        ("no-random-seed", "var/lib/systemd/random-seed", "seed\n"),
        ("no-history", "root/.bash_history", "ls\n"),
        ("no-history", "root/.ssh/known_hosts", "host\n"),
        ("no-leases", "var/lib/dhcp/dhclient.ens3.leases", "lease\n"),
        ("no-mail", "var/spool/postfix/deferred/A/A1B2C3", "mail\n"),
        ("no-mail", "var/mail/root", "From \n"),
        ("no-relay-state", "etc/relay/boot.json", "{}\n"),
        ("no-relay-state", "var/lib/relay/been-ready", ""),
        ("no-relay-state", "etc/postfix/sasl_passwd.db", "db\n"),
        ("no-relay-state", "etc/postfix/sasl/passwd", "a:b\n"),
        ("no-temporary-files", "var/tmp/payload.tar", "tar\n"),
        ("no-temporary-files", "tmp/x/script.sh", "#!/bin/sh\n"),
        ("no-host-name", "etc/hostname", "relay-bake\n"),
        ("smtp-closed", "etc/postfix/master.cf", "smtp      inet  n - y - - smtpd\n"),
        ("no-private-keys", "etc/ssl/private/ssl-cert-snakeoil.key", PRIVATE_KEY),
        ("no-secrets", "usr/share/notes", "key = AKIAABCDEFGHIJKLMNOP\n"),
    ],
)
def test_what_a_bake_left_is_found(tmp_path: Path, name: str, path: str, text: str) -> None:
    failed = _failed(inspect_raw(_make_disk(tmp_path, {path: text})))
    assert list(failed) == [name]
    assert f"/{path}" in failed[name] or path == "home/bake/.profile"


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_a_missing_machine_id_is_a_violation_of_its_own(tmp_path: Path) -> None:
    raw = _make_disk(tmp_path, {})
    process.run(["debugfs", "-w", "-R", "rm /etc/machine-id", raw])
    assert "is missing" in _failed(inspect_raw(raw))["machine-id-empty"]


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_a_deleted_private_key_is_found_in_free_space(tmp_path: Path) -> None:
    raw = _make_disk(tmp_path, {"etc/ssh/deleted": PRIVATE_KEY * 20})
    process.run(["debugfs", "-w", "-R", "rm /etc/ssh/deleted", raw])
    assert "free space" in _failed(inspect_raw(raw))["no-private-keys"]


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_a_key_that_a_library_tests_itself_with_is_no_secret(tmp_path: Path) -> None:
    library = "usr/lib/x86_64-linux-gnu/libgnutls.so.30.34.3"
    raw = _make_disk(tmp_path, {library: PRIVATE_KEY, "usr/lib/x86_64-linux-gnu/old.so~": PRIVATE_KEY})
    assert _failed(inspect_raw(raw)) == {}


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_a_forbidden_value_is_named_by_its_file_and_never_shown(tmp_path: Path) -> None:
    raw = _make_disk(tmp_path, {"etc/postfix/copy": "host user:CANARY-7391\n"})
    evidence = _failed(inspect_raw(raw, forbidden={"the password": b"CANARY-7391"}))["no-secrets"]
    assert evidence.startswith("the password at byte")
    assert evidence.endswith("/etc/postfix/copy")
    assert "CANARY" not in evidence


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_a_file_system_that_was_not_closed_is_found(tmp_path: Path) -> None:
    raw = _make_disk(tmp_path, {})
    process.run(["debugfs", "-w", "-R", "feature needs_recovery", raw])
    assert "needs recovery" in _failed(inspect_raw(raw))["clean-file-systems"]


@pytest.mark.allow_programs("mke2fs", "debugfs", "qemu-img")
def test_a_partitioned_qcow2_is_looked_into(tmp_path: Path) -> None:
    content = _make_disk(tmp_path, {"root/.bash_history": "ls\n"}).read_bytes()
    whole = bytearray(16 * MIB)
    whole[MIB : MIB + len(content)] = content
    whole[512:520] = b"EFI PART"
    struct.pack_into("<QII", whole, 512 + 72, 2, 4, 128)
    whole[1024 + 128 : 1024 + 144] = b"\x01" * 16  # the second entry; the first is unused
    struct.pack_into("<Q", whole, 1024 + 128 + 32, MIB // 512)
    raw, image = tmp_path / "whole.raw", tmp_path / "image.qcow2"
    raw.write_bytes(whole)
    process.run(["qemu-img", "convert", "-O", "qcow2", "-c", raw, image])
    assert list(_failed(inspect_image(image))) == ["no-history"]


@pytest.mark.allow_programs("mke2fs", "debugfs")
def test_an_mbr_is_read_where_there_is_no_gpt(tmp_path: Path) -> None:
    content = _make_disk(tmp_path, {}).read_bytes()
    whole = bytearray(16 * MIB)
    whole[MIB : MIB + len(content)] = content
    whole[510:512] = b"\x55\xaa"
    whole[446 + 4] = 0x83
    struct.pack_into("<I", whole, 446 + 8, MIB // 512)
    raw = tmp_path / "whole.raw"
    raw.write_bytes(whole)
    assert [system.offset for system in disk.find_file_systems(raw)] == [MIB]


@pytest.mark.allow_programs("debugfs")
def test_a_disk_without_a_root_file_system_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "empty.raw"
    raw.write_bytes(bytes(MIB))
    with pytest.raises(BuilderError, match="no ext4 file system"):
        inspect_raw(raw)

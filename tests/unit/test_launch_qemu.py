"""QEMU's command line, ports and room, the seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from builder import process
from builder.errors import BuilderError
from builder.launch import qemu, seed
from builder.launch.accelerator import Accelerator
from builder.launch.qemu import Machine

TCG = Accelerator("tcg", "a test")


def _machine(tmp_path: Path, **changes: object) -> Machine:
    values = {
        "name": "builder-i-1",
        "accelerator": TCG,
        "disk": tmp_path / "disk.qcow2",
        "seed": tmp_path / "seed.iso",
        "serial": tmp_path / "serial.log",
        "qmp": tmp_path / "qmp",
        "forward": {25: 2525, 22: 2222},
        **changes,
    }
    return Machine(**values)  # type: ignore[arg-type]


def _words(tmp_path: Path, **changes: object) -> list[str]:
    return qemu.command_line(Path("/usr/bin/qemu-system-x86_64"), _machine(tmp_path, **changes))


def test_ports_are_forwarded_on_loopback_only(tmp_path: Path) -> None:
    words = _words(tmp_path)
    netdev = words[words.index("-netdev") + 1]
    assert netdev == "user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:2525-:25"


def test_a_throw_away_disk_skips_fsync_and_a_lasting_one_does_not(tmp_path: Path) -> None:
    assert "cache=unsafe" in " ".join(_words(tmp_path))
    assert "cache=writeback" in " ".join(_words(tmp_path, cache="writeback"))
    assert "unsafe" not in " ".join(_words(tmp_path, cache="writeback"))


def test_a_comma_in_a_path_does_not_end_the_option(tmp_path: Path) -> None:
    words = _words(tmp_path, disk=tmp_path / "a,b.qcow2")
    assert any(word.endswith("file=" + str(tmp_path / "a,,b.qcow2")) for word in words)


def test_only_a_guest_with_a_pid_file_goes_to_the_background(tmp_path: Path) -> None:
    assert "-daemonize" not in _words(tmp_path)
    assert _words(tmp_path, pid_file=tmp_path / "pid")[-3:-1] == ["-daemonize", "-pidfile"]


def test_software_emulation_uses_a_thread_for_each_processor(tmp_path: Path) -> None:
    words = _words(tmp_path)
    assert words[words.index("-accel") + 1] == "tcg,thread=multi"
    words = _words(tmp_path, accelerator=Accelerator("kvm", "a test"))
    assert words[words.index("-accel") + 1] == "kvm"


def test_a_disk_that_is_nearly_full_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match="MiB are free"):
        qemu.check_free_space(tmp_path, min_free_mib=10**9)


def test_free_ports_are_all_different(tmp_path: Path) -> None:
    chosen = qemu.choose_ports(dict.fromkeys(range(1, 40), 0))
    assert len(set(chosen.values())) == 39
    assert 0 not in chosen.values()


def test_a_login_keeps_what_the_user_data_says() -> None:
    text = seed.add_login("#cloud-config\nusers: [default]\nhostname: relay\n", "ssh-ed25519 AAAA me\n")
    config = yaml.safe_load(text)
    assert text.startswith("#cloud-config\n")
    assert config["hostname"] == "relay"
    assert config["users"][0] == "default"
    assert config["users"][1]["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me"]


def test_a_login_can_be_added_to_empty_user_data() -> None:
    assert yaml.safe_load(seed.add_login("", "ssh-ed25519 AAAA"))["users"][0]["name"] == "probe"


def test_a_script_cannot_carry_a_login() -> None:
    with pytest.raises(BuilderError, match="begins with `#!/bin/sh`"):
        seed.add_login("#!/bin/sh\necho\n", "ssh-ed25519 AAAA")


@pytest.mark.allow_programs("xorriso")
def test_a_seed_has_the_label_and_the_four_files(tmp_path: Path) -> None:
    iso = tmp_path / "seed.iso"
    seed.write_seed(iso, user_data="#cloud-config\n", instance_id="i-1", work=tmp_path / "seed")
    assert b"cidata" in iso.read_bytes()[32768:34816]
    said = process.run(["xorriso", "-indev", iso, "-find", "/", "-type", "f"])
    names = {line.strip("'/") for line in said.stdout.split()}
    assert names == {"user-data", "meta-data", "network-config", "vendor-data"}

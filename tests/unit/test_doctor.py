from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder import base_build, doctor
from builder.doctor import Finding, Tool
from tests.fakes import FakeTools


def test_a_tool_that_answers_is_fine(fake_tool: FakeTools) -> None:
    tool = fake_tool("frob", "echo 'frob version 2.10.1 (Debian)'")

    finding = doctor.check_tool(Tool("frob", "frob-utils", "frob", minimum=(2, 9)))

    assert (finding.status, finding.found, finding.mend) == ("ok", f"2.10.1 ({tool.path})", "")


def test_a_missing_tool_is_named_with_its_package(fake_tool: FakeTools) -> None:
    finding = doctor.check_tool(Tool("no-such-tool", "frob-utils", "frob"))

    assert finding.status == "missing"
    assert finding.found == "`no-such-tool` is not installed; it is needed to frob"
    assert (finding.mend, finding.package) == ("apt-get install frob-utils", "frob-utils")


def test_an_old_tool_is_told_from_a_missing_one(fake_tool: FakeTools) -> None:
    fake_tool("frob", "echo 2.8.9")

    finding = doctor.check_tool(Tool("frob", "frob-utils", "frob", minimum=(2, 9)))

    assert finding.status == "too old"
    assert "2.9 or newer" in finding.found


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("echo Packer v1.6.6", "ok"),
        ("echo Packer v1.5.0", "too old"),
        ("exec sleep 60", "hangs"),
        ("echo cracklib", "not usable"),
    ],
)
def test_packer_is_told_from_what_only_has_its_name(fake_tool: FakeTools, script: str, status: str) -> None:
    fake_tool("packer", script)

    findings = list(doctor.check_packer(timeout_seconds=0.5))

    assert [finding.status for finding in findings] == [status]
    assert findings[0].required


def test_a_newer_packer_is_asked_for_its_plugins(fake_tool: FakeTools) -> None:
    plugin = "/p/github.com/hashicorp/qemu/packer-plugin-qemu_v1.1.3_x5.0_linux_amd64"
    tool = fake_tool("packer", f'case $1 in version) echo Packer v1.15.4;; plugins) echo "{plugin}";; esac')

    findings = {finding.name: finding for finding in doctor.check_packer()}

    assert findings["packer"].found.startswith("1.15.4, plugins apart")
    assert (findings["packer plugin qemu"].status, findings["packer plugin qemu"].found) == ("ok", "1.1.3")
    assert findings["packer plugin amazon"].status == "missing"
    assert findings["packer plugin amazon"].mend.startswith(f"{tool.path} plugins install ")


def test_every_tool_that_builds_a_base_is_examined() -> None:
    assert set(base_build._TOOLS) <= {tool.name for tool in doctor.TOOLS}


def test_every_missing_package_is_in_one_command() -> None:
    missing = [
        Finding(name, "missing", "", "bake", package=package)
        for name, package in (("ssh", "openssh-client"), ("ssh-keygen", "openssh-client"), ("zstd", "zstd"))
    ]
    fine = Finding("packer", "ok", "1.6.6", "bake")

    command = doctor.apt_command([*missing, fine])

    sudo = "" if os.geteuid() == 0 else "sudo "
    assert command == f"{sudo}apt-get install --no-install-recommends openssh-client zstd"
    assert doctor.apt_command([fine]) is None


def test_a_disk_is_examined_before_its_folder_exists(tmp_path: Path) -> None:
    finding = doctor.check_disk("images", tmp_path / "not" / "yet", "BUILDER_IMAGES")

    assert finding.status in ("ok", "too little")
    assert " GB free" in finding.found


def test_a_small_disk_says_how_much_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NEEDED_BYTES", 10**18)

    finding = doctor.check_disk("cache", tmp_path, "BUILDER_CACHE")

    assert finding.status == "too little"
    assert finding.mend == "Free some space, or set BUILDER_CACHE to a folder on another disk"


@pytest.fixture
def all_tools(fake_tool: FakeTools) -> None:
    """Every program answers."""
    for tool in doctor.TOOLS:
        fake_tool(tool.name, "echo 99.0")
    fake_tool("packer", "echo Packer v1.6.6")


@pytest.mark.usefixtures("all_tools")
def test_a_file_in_place_of_the_cache_is_a_finding_and_no_crash(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    found = doctor.examine(images=file / "images", cache=file, network=False)

    disks = {each.name: each for each in found if each.status == "not usable" and "disk" in each.name}
    assert disks["disk for cache"].found == f"`{file}` is not a folder"
    assert disks["disk for images"].found == f"`{file}` is not a folder"
    assert disks["disk for images"].mend == "Set BUILDER_IMAGES to a folder that you may write to"


def test_a_folder_that_may_not_be_written_to_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere

    finding = doctor.check_disk("images", tmp_path, "BUILDER_IMAGES")

    assert (finding.status, finding.found) == ("not usable", f"`{tmp_path}` may not be written to")


@pytest.mark.usefixtures("all_tools")
def test_the_disk_for_temporary_files_is_examined(tmp_path: Path) -> None:
    found = doctor.examine(images=tmp_path, cache=tmp_path, network=False)

    assert "disk for temporary files" in {finding.name for finding in found}


def test_the_package_mirror_is_asked_without_a_cache(fake_tool: FakeTools) -> None:
    fake_tool.only()

    assert doctor.check_mirror().status == "not reachable"


def test_a_missing_keyring_is_no_hindrance(tmp_path: Path) -> None:
    finding = doctor.check_keyring(tmp_path / "keys.gpg")

    assert (finding.status, finding.required) == ("missing", False)


def test_a_site_that_cannot_be_reached_says_what_to_do_instead() -> None:
    finding = doctor.check_site("http://127.0.0.1:9")

    assert finding.status == "not reachable"
    assert "builder base build" in finding.mend


def test_aws_without_credentials_shows_how_to_log_in() -> None:
    finding = doctor.check_aws()

    assert (finding.status, finding.required) == ("not usable", False)
    assert "aws configure" in finding.mend


@pytest.mark.usefixtures("all_tools")
def test_what_is_required_comes_first(tmp_path: Path) -> None:
    found = doctor.examine(images=tmp_path, cache=tmp_path, network=False)

    required = [finding.required for finding in found]
    assert required == sorted(required, reverse=True)
    assert {"packer", "qemu-img", "accelerator", "root", "python"} <= {finding.name for finding in found}

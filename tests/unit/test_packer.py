"""Packer is found, asked, and told apart from programs of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import packer
from builder.errors import ToolError
from builder.packer import Packer
from tests.fakes import FakeTools

OLD = Packer(Path("/usr/bin/packer"), "1.6.6")


def test_packer_on_path_is_asked_for_its_version_without_calling_home(fake_tool: FakeTools) -> None:
    tool = fake_tool("packer", 'echo "Packer v1.6.6 checkpoint=$CHECKPOINT_DISABLE"')
    found = packer.find()
    assert (found.path, found.version, found.number) == (tool.path, "1.6.6", (1, 6, 6))
    assert tool.calls == [["version"]]
    assert found.environment()["CHECKPOINT_DISABLE"] == "1"


def test_flag_stands_over_variable_and_variable_over_path(
    fake_tool: FakeTools, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_tool("packer", "echo Packer v1.6.6")
    by_variable = fake_tool("packer-1.12", "echo Packer v1.12.0")
    by_flag = fake_tool("packer-1.16", "echo Packer v1.16.0")
    monkeypatch.setenv("PACKER_BIN", str(by_variable.path))
    assert packer.find().version == "1.12.0"
    assert packer.find(by_flag.path).version == "1.16.0"


def test_missing_packer_names_the_command_that_installs_it(fake_tool: FakeTools) -> None:
    fake_tool.only()
    if Path("/usr/sbin/packer").exists():
        pytest.skip("this machine has cracklib's packer")
    with pytest.raises(ToolError, match="`packer` is not installed") as error:
        packer.find()
    assert error.value.hint == "Run `sudo apt-get install packer`"


def test_named_packer_that_is_no_program_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="is not a program"):
        packer.find(tmp_path / "packer")


def test_packer_that_hangs_on_version_is_given_up(fake_tool: FakeTools) -> None:
    fake_tool("packer", "exec sleep 60")
    with pytest.raises(ToolError, match="did not answer within 0 s") as error:
        packer.find(timeout_seconds=0.3)
    assert error.value.hint is not None
    assert "--packer" in error.value.hint


def test_cracklibs_packer_is_told_apart(fake_tool: FakeTools) -> None:
    fake_tool("packer", "cat >/dev/null; echo 0 0")
    with pytest.raises(ToolError, match="does not answer as Packer does"):
        packer.find()


def test_too_old_packer_says_which_one_is_needed(fake_tool: FakeTools) -> None:
    fake_tool("packer", "echo Packer v1.4.5")
    with pytest.raises(ToolError, match=r"is 1\.4\.5; 1\.6\.6 or newer is needed"):
        packer.find()


@pytest.mark.parametrize(
    ("version", "knows", "bundles"),
    [("1.6.6", False, True), ("1.7.0", True, True), ("1.9.5", True, True), ("1.10.0", True, False)],
)
def test_versions_differ_in_plugins(version: str, knows: bool, bundles: bool) -> None:
    tool = Packer(Path("packer"), version)
    assert (tool.knows_plugins, tool.bundles_plugins) == (knows, bundles)


def test_installed_plugins_are_listed_with_versions(fake_tool: FakeTools) -> None:
    stem = "/home/me/.config/packer/plugins/github.com/hashicorp"
    listing = f"{stem}/amazon/packer-plugin-amazon_v1.8.2_x5.0_linux_amd64"
    tool = fake_tool("packer", f"echo {listing}")
    assert Packer(tool.path, "1.16.0").plugins() == {"amazon": "1.8.2"}
    assert OLD.plugins() == {}


def test_plugins_beside_packer_are_used(fake_tool: FakeTools, tmp_path: Path) -> None:
    tool = fake_tool("packer", "echo Packer v1.16.0")
    (tool.path.parent / "plugins").mkdir()
    found = packer.find(tool.path)
    assert found.environment()["PACKER_PLUGIN_PATH"] == str(tool.path.parent / "plugins")


def test_plugin_folder_of_the_user_stands_over_the_one_beside(
    fake_tool: FakeTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACKER_PLUGIN_PATH", "/opt/plugins")
    tool = Packer(Path("packer"), "1.16.0", Path("/elsewhere"))
    assert tool.environment()["PACKER_PLUGIN_PATH"] == "/opt/plugins"


@pytest.mark.parametrize(
    ("missing", "package"),
    [("qemu-system-x86_64", "qemu-system-x86"), ("qemu-img", "qemu-utils"), ("xorriso", "xorriso")],
)
def test_each_missing_tool_names_its_package(fake_tool: FakeTools, missing: str, package: str) -> None:
    for name in {"qemu-system-x86_64", "qemu-img", "xorriso"} - {missing}:
        fake_tool(name)
    fake_tool.only()
    with pytest.raises(ToolError, match=f"`{missing}` is not installed") as error:
        packer.require_tools("qemu")
    assert error.value.hint == f"Run `sudo apt-get install {package}`"


def test_genisoimage_alone_does_not_do_but_mkisofs_does(fake_tool: FakeTools) -> None:
    for name in ("qemu-system-x86_64", "qemu-img", "genisoimage"):
        fake_tool(name)
    fake_tool.only()
    with pytest.raises(ToolError, match="write the cloud-init seed"):
        packer.require_tools("qemu")
    fake_tool("mkisofs")
    packer.require_tools("qemu")


def test_ami_needs_no_program_of_qemu(fake_tool: FakeTools) -> None:
    fake_tool.only()
    packer.require_tools("ami")


def test_plugin_that_cannot_be_downloaded_names_two_ways_out(fake_tool: FakeTools, tmp_path: Path) -> None:
    tool = fake_tool("packer", "echo 'Failed getting the plugin'; echo 'dial tcp: no such host' >&2; exit 1")
    with pytest.raises(ToolError, match="has no `qemu` plugin.*no such host") as error:
        packer.install_plugin(Packer(tool.path, "1.16.0"), "qemu", tmp_path)
    assert tool.calls == [["init", "."]]
    assert error.value.hint is not None
    assert "packer plugins install github.com/hashicorp/qemu" in error.value.hint
    assert "apt-get install packer" in error.value.hint

"""Installing packages into a folder: the command line, the package cache, what cloud images have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from builder import base_packages, base_rootfs
from builder.base_packages import Suite
from builder.errors import BuilderError, CommandError
from builder.releases import get_release
from tests.fakes import FakeTools

DEBIAN = get_release("debian-11")
SUITES = [
    Suite("http://mirror.example/debian/", "bullseye", ("main",), None),
    Suite("http://mirror.example/debian/", "bullseye-updates", ("main",), None),
]
# Writes what mmdebstrap leaves behind: its last arguments are the suite, the folder and the mirrors.
MMDEBSTRAP = """
for each; do case $each in */root) root=$each;; esac; done
mkdir -p "$root/var/cache/apt/archives"
echo package > "$root/var/cache/apt/archives/bash_5.1_amd64.deb"
echo 'I: downloading packages with apt...'
"""
META_MISSING = (
    MMDEBSTRAP
    + """
case "$*" in *linux-image-cloud-amd64*)
echo 'E: Failed to fetch http://m/linux-image-cloud-amd64_5.10.262-1_amd64.deb  404  Not Found [IP: 1]'
exit 25;; esac
"""
)

pytestmark = pytest.mark.allow_programs("setpriv")


def command(suites: list[Suite] = SUITES, options: Mapping[str, str] | None = None) -> list[str]:
    return base_rootfs.command(
        DEBIAN, suites, Path("/w/root"), ["a", "b"], debs=Path("/c/my debs"), options=options or {}
    )


def install(tmp_path: Path) -> Path:
    base_rootfs.install(
        DEBIAN, SUITES, tmp_path / "root", debs=tmp_path / "debs", log=tmp_path / "log", epoch=7
    )
    return tmp_path / "root"


@pytest.fixture(autouse=True)
def _apt_config(fake_tool: FakeTools) -> None:
    fake_tool("apt-config")


def test_the_command_installs_the_packages_from_the_suites() -> None:
    argv = command(options={"Acquire::http::Proxy": "http://proxy.example/"})
    assert argv[:3] == ["mmdebstrap", "--mode=root", "--format=directory"]
    assert "--include=a,b" in argv
    assert '--aptopt=Acquire::http::Proxy "http://proxy.example/"' in argv
    assert argv[-4:] == [
        "bullseye",
        "/w/root",
        "deb http://mirror.example/debian/ bullseye main",
        "deb http://mirror.example/debian/ bullseye-updates main",
    ]


def test_an_ubuntu_base_is_the_same_command_with_its_kernel() -> None:
    ubuntu = get_release("ubuntu-24.04")
    suite = Suite("http://mirror.example/ubuntu/", "noble", ("main", "universe"), Path("/keys/u.gpg"))
    packages = base_packages.packages(ubuntu)
    argv = base_rootfs.command(ubuntu, [suite], Path("/w/root"), packages, debs=Path("/c"), options={})
    [include] = [word for word in argv if word.startswith("--include=")]
    assert include.startswith("--include=linux-image-virtual,systemd-sysv,")
    assert argv[-3:] == [
        "noble",
        "/w/root",
        "deb [signed-by=/keys/u.gpg] http://mirror.example/ubuntu/ noble main universe",
    ]


def test_cached_packages_are_linked_in_also_from_a_folder_with_a_space() -> None:
    [hook] = [word for word in command() if word.startswith("--setup-hook=")]
    assert "cp -al '/c/my debs'/. " in hook


def test_a_mirror_of_files_is_mounted_for_apt() -> None:
    suites = [Suite("file:/srv/debian/", "bullseye", ("main",), None)]
    assert any("file-mirror-automount" in word for word in command(suites))
    assert not any("file-mirror-automount" in word for word in command())


def test_downloaded_packages_move_to_the_cache(tmp_path: Path, fake_tool: FakeTools) -> None:
    fake_tool("mmdebstrap", MMDEBSTRAP)
    root = install(tmp_path)
    assert (tmp_path / "debs/bash_5.1_amd64.deb").is_file()
    assert not list((root / "var/cache/apt/archives").glob("*.deb"))


def test_a_package_that_came_from_the_cache_does_not_stay_in_the_image(
    tmp_path: Path, fake_tool: FakeTools
) -> None:
    # Renaming one hard link to another of the same file does nothing: both names would stay.
    link = 'ln "$root/var/cache/apt/archives/bash_5.1_amd64.deb" "$root/../debs/"'
    fake_tool("mmdebstrap", MMDEBSTRAP + link)
    root = install(tmp_path)
    assert not list((root / "var/cache/apt/archives").glob("*.deb"))
    assert (tmp_path / "debs/bash_5.1_amd64.deb").is_file()


def test_a_listed_kernel_that_is_not_there_is_replaced_by_what_it_stands_for(
    tmp_path: Path, fake_tool: FakeTools, capsys: pytest.CaptureFixture[str]
) -> None:
    mmdebstrap = fake_tool("mmdebstrap", META_MISSING)
    depends = "linux-image-cloud-amd64\\n  Depends: linux-image-5.10.0-46-cloud-amd64\\n"
    fake_tool("apt-cache", f"printf '{depends}'")
    install(tmp_path)
    first, second = mmdebstrap.calls
    assert any("linux-image-cloud-amd64," in word for word in first)
    assert any("=linux-image-5.10.0-46-cloud-amd64," in word for word in second)
    assert "lists `linux-image-cloud-amd64` but does not have it" in capsys.readouterr().err


def test_a_package_that_the_mirror_does_not_deliver_is_named(tmp_path: Path, fake_tool: FakeTools) -> None:
    fake_tool("mmdebstrap", "echo 'E: Failed to fetch http://m/x.deb  404  Not Found'; exit 25")
    with pytest.raises(BuilderError, match="did not deliver `http://m/x.deb`: 404") as caught:
        install(tmp_path)
    assert "--mirror URL" in (caught.value.hint or "")


def test_packages_downloaded_before_a_failure_are_kept(tmp_path: Path, fake_tool: FakeTools) -> None:
    fake_tool("mmdebstrap", MMDEBSTRAP + "exit 25")
    with pytest.raises(CommandError, match="failed with exit code 25"):
        install(tmp_path)
    assert (tmp_path / "debs/bash_5.1_amd64.deb").is_file()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("dpkg: error: write error: No space left on device", "The disk is full"),
        ("E: Unable to locate package netplan.io", "no package `netplan.io`"),
        ("E: Failed to fetch http://m/x.deb  Connection failed", "did not deliver `http://m/x.deb`"),
        ("Segmentation fault", "as it was"),
    ],
)
def test_known_reasons_are_told_in_plain_words(output: str, message: str) -> None:
    error = CommandError("as it was", argv=["x"], returncode=1, output=output, hint=None)
    assert message in base_rootfs.explain(error).message


def test_a_root_folder_becomes_like_a_cloud_image(tmp_path: Path, fake_tool: FakeTools) -> None:
    chroot = fake_tool("chroot")
    root, keyring = tmp_path / "root", tmp_path / "own.gpg"
    keyring.write_bytes(b"keys")
    for name in (
        "etc/ssh/ssh_host_rsa_key",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "var/lib/apt/lists/index/file",
        "var/log/dpkg.log",
        "run/lock/x",
        "etc/resolv.conf",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("left over")
    (root / "etc/machine-id").write_text("0123456789abcdef\n")
    suites = [Suite("http://m/", "bookworm", ("main",), keyring)]
    base_rootfs.make_like_cloud_image(root, get_release("debian-12"), suites)
    left = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert not [name for name in left if "ssh_host" in name or "99mmdebstrap" in name or "lists" in name]
    assert not [name for name in left if name.startswith(("run/", "var/log/"))]
    assert (root / "etc/machine-id").read_text() == ""
    assert (root / "etc/resolv.conf").readlink() == Path("../run/systemd/resolve/stub-resolv.conf")
    datasources = (root / "etc/cloud/cloud.cfg.d/90_dpkg.cfg").read_text()
    assert datasources.startswith("datasource_list: [ NoCloud,")
    assert datasources.count("\n") == 1
    assert (root / keyring.relative_to("/")).read_bytes() == b"keys"
    assert [*chroot.calls[-1][1:]] == ["usermod", "--lock", "root"]


def test_installed_packages_are_read(tmp_path: Path, fake_tool: FakeTools) -> None:
    query = fake_tool("dpkg-query", "printf 'postfix\\t3.7.11\\nbash\\t5.2\\n'")
    assert base_rootfs.installed(tmp_path) == {"bash": "5.2", "postfix": "3.7.11"}
    assert query.calls[0][0] == f"--admindir={tmp_path}/var/lib/dpkg"

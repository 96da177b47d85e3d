"""The conformance suite on the Postfix of other releases, each in a tree of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import base_build, process
from builder.conformance import CASES
from builder.conformance.case import Case
from builder.conformance.client import Mail, send_all
from builder.conformance.setups import OAUTH, SETUPS, Bed, running
from builder.releases import Release, get_release
from tests.rendered import USER_DATA, rendered, user_data

pytestmark = [pytest.mark.releases, pytest.mark.timeout(1800)]

# The ages of Ubuntu 20.04, 22.04/24.04 and 26.04: Postfix 3.5, 3.7 and 3.10.
_RELEASES = ("debian-11", "debian-12", "debian-13")
# In a mount namespace, so that nothing stays mounted whatever happens.
_INSTALL = """\
set -e
R=$1
mount -t proc proc "$R/proc"
mount --rbind /dev "$R/dev"
rm -f "$R/etc/resolv.conf"
cp -L /etc/resolv.conf "$R/etc/resolv.conf"
printf '#!/bin/sh\\nexit 101\\n' >"$R/usr/sbin/policy-rc.d"
chmod 755 "$R/usr/sbin/policy-rc.d"
echo 'postfix postfix/main_mailer_type select No configuration' | chroot "$R" debconf-set-selections
export DEBIAN_FRONTEND=noninteractive
chroot "$R" apt-get -q -y update
chroot "$R" apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io \\
    install postfix libsasl2-modules sasl2-bin opendkim
touch "$R/etc/postfix/main.cf"
"""


@pytest.fixture(scope="module", params=_RELEASES)
def release(request: pytest.FixtureRequest) -> Release:
    """Each release in turn, in place of the one that is installed here."""
    return get_release(request.param)


@pytest.fixture(scope="module")
def root(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the root folder of a release with Postfix installed."""
    base_build.ensure(release.name)
    root = tmp_path_factory.mktemp(release.name) / "root"
    root.mkdir()
    archive = base_build.rootfs_tar(release.name)
    process.run(
        ["tar", "--extract", "--zstd", f"--file={archive}", f"--directory={root}"], timeout_seconds=600
    )
    process.run(["unshare", "--mount", "sh", "-c", _INSTALL, "install", root], timeout_seconds=900)
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, prove: Callable[[Case], None]) -> None:
    prove(case)


@pytest.mark.parametrize("setup", SETUPS)
def test_no_parameter_is_unknown_to_the_release(setup: str, bed_for: Callable[[str], Bed]) -> None:
    said = bed_for(setup).relay.configuration()
    assert "warning" not in said, said


def test_the_bake_compiles_xoauth2_and_leaves_no_compiler(
    release: Release, root: Path, tmp_path: Path
) -> None:
    for path, text in rendered("microsoft365", release.name).items():
        if path.startswith("root/usr/lib/relay/sasl/"):
            place = root / path.removeprefix("root/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
    command: list[str | Path] = ["chroot", root, "dpkg-query", "--show"]
    before = process.run(command).stdout.splitlines()
    script = 'mount -t proc proc "$1/proc" && chroot "$1" sh /usr/lib/relay/sasl/build.sh'
    process.run(["unshare", "--mount", "sh", "-c", script, "build", root], timeout_seconds=900)
    after = process.run(command).stdout.splitlines()
    assert {line.split()[0] for line in after} == {line.split()[0] for line in before}
    assert not (root / "usr/bin/gcc").exists()
    with running(OAUTH, release, tmp_path / "bed", root=root) as bed:
        gmail = bed.upstreams[0]
        bed.relay.set_credentials({up.host: f"{up.user}:{up.password}" for up in bed.upstreams})
        send_all(bed.relay.smtp_address, [Mail(("a@example.net",))])
        gmail.provider.wait_for(lambda: gmail.provider.messages, timeout_seconds=20)
        assert [attempt.mechanism for attempt in gmail.provider.auths] == ["XOAUTH2"]


@pytest.mark.parametrize("kind", USER_DATA)
def test_cloud_init_takes_the_user_data(kind: str, release: Release, root: Path) -> None:
    assert "Valid" in _schema_says(root, user_data(kind, release.name))


def test_cloud_init_refuses_what_its_schema_does_not_have(root: Path) -> None:
    said = _schema_says(root, "#cloud-config\nbootcmd: {a: b}\n")
    assert "bootcmd" in said
    assert "Valid" not in said


def _schema_says(root: Path, text: str) -> str:
    (root / "tmp/user-data").write_text(text)
    # Before 22.2 it is a subcommand of `devel`.
    command = 'cloud-init schema --help >/dev/null 2>&1 || devel=devel; cloud-init $devel schema -c "$1"'
    ended = process.run(
        ["chroot", root, "sh", "-c", command, "sh", "/tmp/user-data"], check=False, timeout_seconds=120
    )
    return ended.stdout + ended.stderr

"""EC2 on this machine: a moto server for the API, and a real sshd in a chroot of its own for the instance."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from filelock import FileLock

from builder import base_packages, base_store, process
from builder.packer import Packer
from builder.releases import get_release
from tests import packers

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

_HERE = Path(__file__).parent
_DATA = _HERE.parent / "data" / "aws"
REGION = "us-east-1"

# What the bake's scripts call and a chroot does not have.
_PROGRAMS = {
    "cloud-init": """case "$*" in
    "status --format json") echo '{"status": "done", "errors": [], "recoverable_errors": {}}' ;;
    *) echo "cloud-init $*" ;;
esac""",
    "systemd-run": 'while [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"',
}

# The real ones would install packages and generalise the machine.
_SCRIPTS = {
    "install.sh": "cat $1/packages.txt; sleep 1",
    "configure.sh": "cp $1/root/etc/motd /etc/motd",
    "seal.sh": r"""mkdir -p $1/diag; cd $1/diag
dpkg-query -W -f '${Package}\t${Version}\t${Architecture}\t${Source}\n' >packages.tsv
cloud-init status --format json >cloud-init-status.json""",
    "finish.sh": "rm -rf $1; touch /finished",
}


@dataclass
class Cloud:
    """The moto server, and a client to look at what Packer did."""

    ec2: EC2Client

    def left_over(self) -> dict[str, list[str]]:
        """List what a bake must have deleted: live instances, security groups, keys."""
        instances = [
            f"{instance['InstanceId']} {instance['State']['Name']}"
            for reservation in self.ec2.describe_instances()["Reservations"]
            for instance in reservation["Instances"]
            if instance["State"]["Name"] != "terminated"
        ]
        groups = [
            group["GroupName"]
            for group in self.ec2.describe_security_groups()["SecurityGroups"]
            if group["GroupName"] != "default"
        ]
        keys = [key["KeyName"] for key in self.ec2.describe_key_pairs()["KeyPairs"]]
        return {"instances": instances, "groups": groups, "keys": keys}

    def open_to(self) -> set[str]:
        """List the networks that some security group lets in."""
        return {
            item["CidrIp"]
            for group in self.ec2.describe_security_groups()["SecurityGroups"]
            for permission in group["IpPermissions"]
            for item in permission["IpRanges"]
        }


@dataclass
class Instance:
    """A root file system with sshd in it, reached at a port of loopback."""

    root: Path
    port: int

    def authorize(self, public_key: str) -> None:
        """Let a key in as `bake`, as the bake's cloud-config does."""
        folder = self.root / "home" / "bake" / ".ssh"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "authorized_keys").write_text(public_key + "\n")


@pytest.fixture(scope="module", params=packers.paths())
def any_packer(request: pytest.FixtureRequest) -> Packer:
    """Each Packer at hand that can bake on EC2; the others are skipped by name."""
    return packers.require(request.param, "ami")


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a moto server."""
    port = _free_port()
    command: list[str | Path] = [Path(sys.executable), _HERE / "moto_server.py", str(port)]
    log = tmp_path_factory.mktemp("moto") / "moto.log"
    with process.Running(command, log=log, env={"MOTO_AMIS_PATH": str(_DATA / "amis.json")}) as server:
        _wait_for(port, server, log)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def using(endpoint: str) -> Iterator[Cloud]:
    """Point boto3 and builder at the moto server for the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield Cloud(boto3.client("ec2", region_name=REGION))


@pytest.fixture
def cloud(moto: str) -> Iterator[Cloud]:
    """EC2 as the moto server plays it."""
    with using(moto) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def instance() -> Iterator[Instance]:
    """An sshd in namespaces and a root file system of its own: nothing in it can reach this machine."""
    if os.geteuid() != 0:
        pytest.skip("a chroot needs root")
    # Not below pytest's folder, which it keeps for three runs: this is 170 MB.
    with tempfile.TemporaryDirectory(prefix="builder-instance-") as folder, _running(Path(folder)) as started:
        yield started


@contextmanager
def _running(folder: Path) -> Iterator[Instance]:
    root = folder / "root"
    root.mkdir()
    process.run(["tar", "-C", root, "-xf", _root_archive()], timeout_seconds=120)
    _prepare(root)
    port = _free_port()
    script = (
        f'mount -t proc proc "{root}/proc" && exec chroot "{root}" /usr/sbin/sshd -D -e '
        f"-o ListenAddress=127.0.0.1 -o Port={port} -o UsePAM=no -o StrictModes=no"
    )
    command = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "sh", "-c", script]
    log = folder / "sshd.log"
    with process.Running(command, log=log) as server:
        _wait_for(port, server, log)
        yield Instance(root, port)


def _root_archive() -> Path:
    """Return a small Debian with sshd and sudo, made once and kept in builder's cache."""
    folder = base_store.cache_folder() / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "instance-debian-12.tar"
    with FileLock(f"{archive}.lock"):
        if not archive.exists():
            partial = archive.with_suffix(".partial.tar")
            release = get_release("debian-12")
            sources = [suite.line() for suite in base_packages.suites(release)]
            process.run(
                [
                    "mmdebstrap", "--variant=essential", "--include=openssh-server,sudo",
                    "--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"',
                    release.codename, partial, *sources,
                ],
                timeout_seconds=900,
            )  # fmt: skip
            partial.rename(archive)
    return archive


def _prepare(root: Path) -> None:
    (root / "run/sshd").mkdir(parents=True, exist_ok=True)
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost {socket.gethostname()}\n")
    # `*`, not `!`: sshd without PAM lets no locked user in, not even with a key.
    process.run(["chroot", root, "useradd", "-m", "-s", "/bin/sh", "-p", "*", "bake"])
    (root / "etc/sudoers.d/bake").write_text("bake ALL=(ALL) NOPASSWD:ALL\n")
    process.run(["chroot", root, "ssh-keygen", "-A"])
    for name, script in _PROGRAMS.items():
        path = root / "usr/bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, server: process.Running, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"nothing answers on port {port}: {log.read_text()}")


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """The real template with scripts that a chroot survives; a test may write its own over them."""
    return copy_template(tmp_path / "template")


def copy_template(folder: Path) -> Path:
    """Copy the real template, and write small scripts beside it."""
    real = _HERE.parent.parent / "packer"
    shutil.copytree(real, folder, ignore=shutil.ignore_patterns("scripts"))
    scripts = folder / "scripts"
    scripts.mkdir()
    for name, text in _SCRIPTS.items():
        (scripts / name).write_text(f"#!/bin/sh\nset -eu\n{text}\n")
    shutil.copy(real / "scripts/diag.sh", scripts)
    return folder

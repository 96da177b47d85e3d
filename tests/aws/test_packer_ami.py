"""The real Packer bakes an AMI: EC2's API is a moto server, the instance a real sshd."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from builder import ami, aws, bundle, console, packer_output, packer_run, packer_template, record, workspace
from builder.packer import Packer
from builder.packer_run import BakeFailed, Built
from builder.releases import get_release
from builder.workspace import Workspace
from tests.aws.conftest import REGION, Cloud, Instance, copy_template, using

pytestmark = pytest.mark.aws

USER_DATA = "#cloud-config\nusers: []\n"
SOURCE = "ami-0a1b2c3d4e5f60002"
NOTHING: dict[str, list[str]] = {"instances": [], "groups": [], "keys": []}


class Notes(console.Step):
    """A step that keeps its notes, looks around at each, and may be interrupted at one of them."""

    def __init__(
        self, *, interrupt_at: str | None = None, look: Callable[[], set[str]] | None = None
    ) -> None:
        super().__init__("bake", None)
        self.seen: list[str] = []
        self.open_to: set[str] = set()
        self.interrupt_at = interrupt_at
        self.look = look

    def note(self, text: str) -> None:
        self.seen.append(text)
        if self.look is not None:
            self.open_to |= self.look()
        if text == self.interrupt_at:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Bake:
    """What one bake needs, so that a test can begin where bake starts Packer."""

    packer: Packer
    instance: Instance
    template: Path
    images: Path

    @contextmanager
    def prepare(self, bake_id: str | None = None) -> Iterator[Workspace]:
        """Do what bake does before it starts Packer."""
        with workspace.create(self.images, "ses", bake_id or workspace.new_bake_id()) as work:
            work.write({"root/etc/motd": "a relay\n", "packages.txt": "postfix\n", "install.json": "{}\n"})
            work.write({"seed/user-data": USER_DATA, "seed/meta-data": "instance-id: x\n"})
            self.instance.authorize(work.make_key())
            work.pack_payload(packer_template.script_files(self.template))
            source = ami.resolve_source(get_release("ubuntu-24.04"), region=REGION)
            values = ami.values(
                work,
                source,
                tags=ami.tags(work, key="0" * 64, preset="ses", source=source),
                ssh_from="203.0.113.7/32",
                endpoint=ami.private_endpoint(),
                options={
                    "ssh_host": "127.0.0.1",
                    "ssh_port": self.instance.port,
                    "ssh_timeout": "60s",
                    "settle_seconds": 0,
                    "poll_seconds": 1,
                },
            )
            packer_template.stage(self.template, work.packer, packer=self.packer, target="ami", values=values)
            yield work

    def run(self, work: Workspace, step: Notes) -> Built:
        """Run Packer as bake does."""
        environment = aws.process_environment(REGION, endpoint_ec2=ami.private_endpoint())
        # moto's HTTP 500 for what it does not know would be retried for minutes.
        environment["AWS_MAX_ATTEMPTS"] = "2"
        return packer_run.build(self.packer, work, target="ami", step=step, env=environment)


@dataclass(frozen=True)
class Baked:
    """A finished bake, as the tests look at it."""

    bake_id: str
    ami_id: str
    timings: Mapping[str, float]
    notes: list[str]
    open_to: set[str]
    printed: Mapping[str, str]
    written: str
    private_key: str


@pytest.fixture(scope="module")
def baked(
    any_packer: Packer, moto: str, instance: Instance, tmp_path_factory: pytest.TempPathFactory
) -> Baked:
    """One whole bake with each Packer."""
    folder = tmp_path_factory.mktemp("bake")
    bake = Bake(any_packer, instance, copy_template(folder / "template"), folder / "images")
    with using(moto) as cloud, bake.prepare() as work:
        notes = Notes(look=cloud.open_to)
        built = bake.run(work, notes)
        written = [work.packer_log, work.debug_log, *work.packer.iterdir()]
        return Baked(
            bake_id=work.bake_id,
            ami_id=built.ami_ids[REGION],
            timings=built.timings,
            notes=notes.seen,
            open_to=notes.open_to,
            printed=packer_output.cut_files(work.packer_log),
            written="".join(path.read_text() for path in written if path.is_file()),
            private_key=work.key.read_text(),
        )


@pytest.fixture
def bake(any_packer: Packer, cloud: Cloud, instance: Instance, template: Path, tmp_path: Path) -> Bake:
    """A bake that a test runs by itself."""
    assert cloud.left_over() == NOTHING
    return Bake(any_packer, instance, template, tmp_path / "images")


def test_ami_is_made_and_tagged_with_its_snapshot(baked: Baked, cloud: Cloud) -> None:
    made = cloud.ec2.describe_images(ImageIds=[baked.ami_id])["Images"][0]
    snapshot_id = made["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    snapshot = cloud.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]
    expected = {
        "Name": "ses",
        "builder:image": "ses",
        "builder:bake-id": baked.bake_id,
        "builder:bake-key": "0" * 64,
        "builder:preset": "ses",
        "builder:source-ami": SOURCE,
    }
    assert made["Name"] == f"ses-{baked.bake_id}"
    assert {tag["Key"]: tag["Value"] for tag in made["Tags"]} == expected
    assert {tag["Key"]: tag["Value"] for tag in snapshot["Tags"]} == expected


def test_files_reach_the_instance_and_packages_come_back(baked: Baked, instance: Instance) -> None:
    assert (instance.root / "etc/motd").read_text() == "a relay\n"
    assert (instance.root / "finished").exists()
    packages = record.parse_packages(baked.printed["packages.tsv"])
    assert "openssh-server" in {package.name for package in packages}


def test_instance_starts_from_the_pinned_ami_with_the_user_data(baked: Baked, cloud: Cloud) -> None:
    found = cloud.ec2.describe_instances(Filters=[{"Name": "tag:builder:bake-id", "Values": [baked.bake_id]}])
    instance = found["Reservations"][0]["Instances"][0]
    sent = cloud.ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
    assert instance["ImageId"] == SOURCE
    assert base64.b64decode(sent["UserData"]["Value"]).decode() == USER_DATA


def test_phases_are_shown_and_timed(baked: Baked) -> None:
    assert list(baked.timings) == [
        "prepare", "boot", "upload", "install", "configure", "seal", "shutdown", "snapshot", "cleanup",
    ]  # fmt: skip
    assert baked.notes[:3] == ["booting, waiting for SSH", "connected", "installing packages"]


def test_only_the_caller_may_reach_the_instance(baked: Baked) -> None:
    assert baked.open_to == {"203.0.113.7/32"}


def test_no_key_and_no_credential_is_written(baked: Baked) -> None:
    assert baked.private_key.splitlines()[1] not in baked.written
    assert "AWS_SECRET_ACCESS_KEY" not in baked.written
    assert "testing" not in baked.written


def test_finished_bake_leaves_only_the_image(baked: Baked, cloud: Cloud) -> None:
    assert baked.ami_id
    assert cloud.left_over() == NOTHING


def test_failing_script_is_diagnosed_and_leaves_nothing(bake: Bake, cloud: Cloud) -> None:
    (bake.template / "scripts/install.sh").write_text(
        "#!/bin/sh\necho 'E: Unable to locate package postfxi' >&2\nexit 100\n"
    )
    with bake.prepare("b1") as work:
        with pytest.raises(BakeFailed) as failed:
            bake.run(work, Notes())
        error = bundle.keep(work, failed.value)

    assert failed.value.phase == "install"
    assert "There is no package `postfxi` for this release" in error.message
    folder = bake.images / ".failed/ses-b1/bundle"
    assert '"status": "done"' in (folder / "cloud-init-status.json").read_text()
    assert (folder / "DIAGNOSIS.txt").read_text().startswith("There is no package `postfxi`")
    assert cloud.left_over() == NOTHING


@pytest.mark.parametrize("at", ["booting, waiting for SSH", "installing packages", "sealing the image"])
def test_interrupt_leaves_no_process_and_nothing_in_ec2(at: str, bake: Bake, cloud: Cloud) -> None:
    for name in ("install.sh", "seal.sh"):
        script = bake.template / "scripts" / name
        script.write_text(script.read_text() + "sleep 3\n")
    with bake.prepare() as work:
        with pytest.raises(KeyboardInterrupt):
            bake.run(work, Notes(interrupt_at=at))
        left = _processes_of(work)

    assert left == []
    assert cloud.left_over() == NOTHING
    assert not any((bake.images / ".work").iterdir())


def test_taken_name_is_explained(bake: Bake, baked: Baked) -> None:
    with bake.prepare(baked.bake_id) as work:
        with pytest.raises(BakeFailed) as failed:
            bake.run(work, Notes())
        error = bundle.keep(work, failed.value)

    assert f"There is already an AMI named `ses-{baked.bake_id}`" in error.message


def _processes_of(work: Workspace) -> list[str]:
    """List processes that work in a bake's folder."""
    found = []
    for candidate in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(candidate.cwd()).is_relative_to(work.path):
                found.append(candidate.name())
    return found

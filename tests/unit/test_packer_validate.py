"""`packer validate` on the staged template, with every Packer at hand and for both targets."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import ami, assets, packer, packer_qemu, packer_template, process
from builder.packer import Packer, Target
from builder.workspace import Workspace
from tests import packers


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    """A workspace that is filled as far as `packer validate` looks into it."""
    made = Workspace(tmp_path / "images", "ses", "bake-id")
    made.rendered.mkdir(parents=True)
    made.seed.mkdir()
    for path in (made.seed / "user-data", made.seed / "meta-data", made.payload, made.path / "start.qcow2"):
        path.write_text("#cloud-config\n")
    return made


def sample_values(target: Target, work: Workspace) -> dict[str, object]:
    if target == "qemu":
        return packer_qemu.values(work, work.path / "start.qcow2", accelerator="tcg")
    source = ami.SourceAmi("ami-0a1b2c3d4e5f60002", "ubuntu", "us-east-1", "--source-ami")
    tags = ami.tags(work, key="0" * 64, preset="ses", source=source)
    return ami.values(work, source, tags=tags, ssh_from="203.0.113.7/32", options={"skip_checks": True})


def wanted(which: str, target: Target) -> Packer:
    """Return a Packer, or skip the test; the archive's must be there."""
    return packer.find(packers.paths()[which]) if which == "archive" else packers.require(which, target)


@pytest.mark.allow_programs("packer", "ssh-keygen")
@pytest.mark.parametrize("target", ["qemu", "ami"])
@pytest.mark.parametrize("which", packers.paths())
def test_packer_validates_the_staged_template(
    which: str, target: Target, work: Workspace, request: pytest.FixtureRequest
) -> None:
    found = wanted(which, target)
    work.make_key()

    values = sample_values(target, work)
    packer_template.stage(assets.folder("packer"), work.packer, packer=found, target=target, values=values)

    done = process.run([found.path, "validate", "."], cwd=work.packer, env=found.environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    packers.note(request, which, target, "validated")


@pytest.mark.allow_programs("packer")
@pytest.mark.parametrize("which", packers.paths())
def test_values_that_a_template_brings_along_do_not_replace_those_of_the_run(
    which: str, tmp_path: Path
) -> None:
    found = wanted(which, "ami")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "build.pkr.hcl").write_text(
        """
        variable "name" { type = string }
        variable "zone" { type = string }
        source "amazon-ebs" "relay" {}
        source "null" "relay" { communicator = "none" }
        build {
          sources = ["source.null.relay"]
          provisioner "shell-local" { inline = ["echo name=${var.name} zone=${var.zone}"] }
        }
        """
    )
    (folder / "zz.auto.pkrvars.json").write_text('{"name": "theirs", "zone": "theirs"}')
    (folder / "zz.auto.pkrvars.hcl").write_text('name = "theirs"\n')

    staged = packer_template.stage(
        folder, tmp_path / "run", packer=found, target="ami", values={"name": "ours"}
    )

    done = process.run([found.path, "build", "."], cwd=staged, env=found.environment(), check=False)
    assert "name=ours zone=theirs" in done.stdout, done.stdout + done.stderr

"""`bake` from a request to its bundle; Packer and QEMU are fake programs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder import ami, assets, bake_ami
from builder import record as records
from builder.bake import BakeRequest, bake, plan
from builder.bake_ami import AmiRequest
from builder.config import load_config
from builder.errors import BuilderError, ConfigError
from tests.fakes import FakeTool, FakeTools
from tests.unit.test_ami import KNOWN, ec2
from tests.unit.test_cli import run

__all__ = ["ec2"]

pytestmark = pytest.mark.allow_programs("setpriv")
CONFIG = load_config(None, {"preset": "ses", "region": "eu-west-1"})
DISK = b"\x00" * 510 + b"\x55\xaa" + b"\x01" * 1000
INFO = json.dumps({"format": "qcow2", "virtual-size": 1})
VERSION = '[ "$1" = version ] && { echo "Packer v1.6.6"; exit; }\n'


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.qcow2"
    path.write_bytes(DISK)
    return path


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A copy of builder's own template."""
    return Path(shutil.copytree(assets.folder("packer"), tmp_path / "template"))


@pytest.fixture
def tool(fake_tool: FakeTools) -> FakeTool:
    """Every program of a bake; the Packer among them does nothing, and is returned."""
    fake_tool("qemu-img", f"case $1 in info) echo '{INFO}';; esac")
    fake_tool("qemu-system-x86_64")
    fake_tool("xorriso")
    fake_tool(
        "ssh-keygen", 'for last; do :; done; echo private >"$last"; echo "ssh-ed25519 A b" >"$last.pub"'
    )
    return fake_tool("packer", VERSION)


@pytest.fixture
def request_qemu(base: Path, template: Path, tmp_path: Path) -> BakeRequest:
    return BakeRequest(
        config=CONFIG,
        base=str(base),
        release="debian-12",
        images_dir=tmp_path / "images",
        packer_dir=template,
        profile="none",
        accelerator="tcg",
    )


@pytest.fixture
def request_ami(template: Path, tmp_path: Path) -> AmiRequest:
    return AmiRequest(
        config=CONFIG,
        release="ubuntu-24.04",
        region="us-east-1",
        images_dir=tmp_path / "images",
        packer_dir=template,
    )


def rename(template: Path, file: str, old: str, new: str) -> None:
    path = template / file
    path.write_text(path.read_text().replace(f'variable "{old}"', f'variable "{new}"'))


def bundle_of(images: Path) -> Path:
    (failed,) = (images / ".failed").iterdir()
    return failed / "bundle"


def test_every_mistake_of_a_template_is_told_before_anything_is_made(
    request_qemu: BakeRequest, template: Path, tool: FakeTool
) -> None:
    rename(template, "source.qemu.pkr.hcl", "serial_log", "console_log")
    for go in (plan, bake):
        with pytest.raises(ConfigError) as error:
            go(request_qemu)
        assert error.value.problems == (
            "variable `serial_log` is set for this run, but the template does not declare it",
            "variable `console_log` has no default and no value",
            "`var.serial_log` is used in source.qemu.pkr.hcl, but no variable `serial_log` is declared",
        )
        assert all(problem in error.value.message for problem in error.value.problems)
        assert str(template) in error.value.message
    assert not request_qemu.images_dir.exists()
    assert tool.calls == []


@pytest.mark.usefixtures("tool")
def test_a_dry_run_shows_every_mistake(
    request_qemu: BakeRequest, template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rename(template, "source.qemu.pkr.hcl", "serial_log", "console_log")
    words = ("--base", request_qemu.base, "--release", "debian-12", "--packer-dir", str(template))
    code, _out, err = run(capsys, "bake", "--preset", "ses", *words, "--dry-run")

    assert code == 1
    assert "3 mistakes" in err
    assert err.count("\n  - ") == 3
    assert "packer.log" not in err


def test_our_own_template_fits_both_targets(request_qemu: BakeRequest, tool: FakeTool) -> None:
    assert plan(request_qemu).found is None
    with pytest.raises(BuilderError, match="there are no AWS credentials"):
        bake_ami.bake_ami(
            AmiRequest(config=CONFIG, release="ubuntu-24.04", region="us-east-1", source_ami="ami-1")
        )
    assert tool.calls == []


def test_what_only_this_packer_cannot_do_is_listed_and_names_no_log(
    request_qemu: BakeRequest, template: Path, tool: FakeTool
) -> None:
    (template / "new.pkr.hcl").write_text('data "amazon-ami" "a" {\n}\nlocal "b" {\n  expression = 1\n}\n')
    with pytest.raises(BuilderError) as error:
        bake(request_qemu)
    assert error.value.message.endswith(
        ": 2 mistakes\n"
        "  - `local` in new.pkr.hcl needs Packer 1.7 or newer; this one is 1.6.6\n"
        "  - `data` in new.pkr.hcl needs Packer 1.7 or newer; this one is 1.6.6"
    )
    bundle = bundle_of(request_qemu.images_dir)
    assert error.value.hint == f"Everything that was seen: `{bundle}`; begin with `DIAGNOSIS.txt`"
    assert ".log" not in (bundle / "DIAGNOSIS.txt").read_text()
    assert tool.calls == [["version"]]


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [
        ("nonsense", "is not JSON"),
        ('{"builds": [{"files": []}], "last_run_uuid": "1"}', "is not as Packer writes it"),
        (
            '{"builds": [{"packer_run_uuid": "1", "files": [], "artifact_id": "VM"}], "last_run_uuid": "1"}',
            "names no disk image",
        ),
    ],
)
@pytest.mark.usefixtures("tool")
def test_result_that_cannot_be_understood_leaves_a_bundle(
    request_qemu: BakeRequest, fake_tool: FakeTools, manifest: str, complaint: str
) -> None:
    fake_tool("packer", f"{VERSION}echo '{manifest}' >manifest.json")
    with pytest.raises(BuilderError, match=complaint):
        bake(request_qemu)
    assert {"DIAGNOSIS.txt", "error.txt", "packer.log", "serial.log"} <= {
        path.name for path in bundle_of(request_qemu.images_dir).iterdir()
    }


@pytest.mark.parametrize(
    ("variables", "complaints"),
    [
        ({"source_ami": "ami-1"}, ["use `--source-ami`"]),
        ({"source": "ami-1"}, ["use `--source-ami`"]),
        ({"ssh_source_cidrs": ["0.0.0.0/0"]}, ["use `--ssh-from`"]),
        ({"ssh_from": "0.0.0.0/0"}, ["use `--ssh-from`"]),
        ({"name": "x", "region": "y"}, ["use `--name`", "use `--ami-region`"]),
        ({"endpoint": "x"}, ["AWS_ENDPOINT_URL_EC2"]),
        ({"tags": {}, "payload": "x"}, ["`tags` is set by builder", "`payload` is set by builder"]),
        ({"work": "x"}, ["variable `work` is set for this run, but the template does not declare it"]),
        (
            {"instance_typ": "x", "encrypt_boot": "yes", "poll_seconds": []},
            ["did you mean `instance_type`?", "but its value is a string", "but its value is a list"],
        ),
    ],
)
def test_variables_that_will_not_do_are_told_before_aws_is_asked(
    request_ami: AmiRequest, tool: FakeTool, variables: dict[str, Any], complaints: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        bake_ami.bake_ami(replace(request_ami, variables=variables))
    assert len(error.value.problems) == len(complaints)
    assert all(complaint in error.value.message for complaint in complaints)
    assert not request_ami.images_dir.exists()
    assert tool.calls == []


def test_every_variable_that_builder_sets_is_refused(request_ami: AmiRequest) -> None:
    for name in ami.expected_values({}):
        with pytest.raises(ConfigError, match=f"`{name}` is set by builder"):
            ami.require_free({name: "x"})


def test_network_that_is_too_wide_is_told_before_aws_is_asked(request_ami: AmiRequest) -> None:
    with pytest.raises(BuilderError, match="would let everybody reach"):
        bake_ami.bake_ami(replace(request_ami, ssh_from="0.0.0.0/0"))


@pytest.mark.usefixtures("ec2")
def test_an_ami_of_another_name_is_no_answer(request_ami: AmiRequest) -> None:
    asked = replace(request_ami, source_ami=KNOWN)
    planned = bake_ami.plan(asked)
    folder = asked.images_dir / planned.name
    folder.mkdir(parents=True)
    made = records.ImageRecord(
        name=planned.name,
        bake_id="b1",
        key=planned.inputs.key,
        status="baked",
        preset="ses",
        base=records.Base(name="x", release="ubuntu-24.04", digest=KNOWN, source="x"),
        inputs=planned.inputs,
        artifact=records.Artifact(ami_ids={"us-east-1": "ami-2"}),
    )
    records.save(made, folder)
    for name, found in ((None, (folder, made)), (planned.name, (folder, made)), ("other", None)):
        assert bake_ami.plan(replace(asked, name=name)).found == found

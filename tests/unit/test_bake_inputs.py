"""The bake key and what goes into the machine."""

from __future__ import annotations

import base64
import gzip
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

from builder import assets, bake_inputs, workspace
from builder import record as records
from builder.config import load_config
from tests.rendered import rendered

CONFIG = load_config(None, {"preset": "ses", "region": "eu-west-1"})


def key(template: Path, **changed: object) -> str:
    given = {"base": "0" * 64, "files": rendered(), "template": template, "config": CONFIG, **changed}
    return bake_inputs.describe("qemu", **given).key  # type: ignore[arg-type]


def test_the_same_inputs_give_the_same_key() -> None:
    assert key(assets.folder("packer")) == key(assets.folder("packer"))


@pytest.mark.parametrize(
    "changed",
    [
        {"base": "1" * 64},
        {"files": {**rendered(), "packages.txt": "postfix\n"}},
        {"config": CONFIG.model_copy(update={"hostname": "other.example.com"})},
    ],
    ids=["base", "files", "config"],
)
def test_another_input_gives_another_key(changed: dict[str, object]) -> None:
    assert key(assets.folder("packer"), **changed) != key(assets.folder("packer"))


def test_another_template_gives_another_key(tmp_path: Path) -> None:
    (tmp_path / "build.pkr.hcl").write_text("# mine\n")
    assert key(tmp_path) != key(assets.folder("packer"))


def test_a_template_without_scripts_of_its_own_depends_on_builders(tmp_path: Path) -> None:
    shutil.copy(assets.folder("packer") / "build.pkr.hcl", tmp_path)
    before = key(tmp_path)
    shutil.copytree(assets.folder("packer") / "scripts", tmp_path / "scripts")
    assert key(tmp_path) == before
    with (tmp_path / "scripts" / "seal.sh").open("a") as script:
        script.write("# changed\n")
    assert key(tmp_path) != before


LEFT_BEHIND = ("scripts/__pycache__/x.cpython-311.pyc", "scripts/.x.swp", ".git/HEAD", ".build.pkr.hcl.swp")


@pytest.mark.allow_programs("ssh-keygen")
def test_what_python_and_editors_leave_in_a_template_is_no_part_of_it(tmp_path: Path) -> None:
    template = tmp_path / "template"
    shutil.copytree(assets.folder("packer"), template, ignore=shutil.ignore_patterns("__pycache__"))
    before = key(template)
    for name in LEFT_BEHIND:
        (template / name).parent.mkdir(exist_ok=True)
        (template / name).write_bytes(b"\xff")
    assert key(template) == before
    with workspace.create(tmp_path, "relay", workspace.new_bake_id()) as work:
        bake_inputs.fill(work, files=rendered(), template=template, config=CONFIG)
        with tarfile.open(work.payload) as archive:
            scripts = {name for name in archive.getnames() if name.startswith("scripts/")}
    assert scripts == {f"scripts/{path.name}" for path in (assets.folder("packer") / "scripts").glob("*.*")}


@pytest.mark.allow_programs("ssh-keygen")
def test_the_install_script_that_starts_with_the_boot_is_the_templates_own(tmp_path: Path) -> None:
    template = tmp_path / "template"
    shutil.copytree(assets.folder("packer"), template)
    (template / "scripts" / "install.sh").write_bytes(b"#!/bin/sh\n# mine, in Latin-1: \xe9\n")
    with workspace.create(tmp_path, "relay", workspace.new_bake_id()) as work:
        bake_inputs.fill(work, files=rendered(), template=template, config=CONFIG)
        user_data = yaml.safe_load((work.seed / "user-data").read_text())
    written = next(command[-1] for command in user_data["bootcmd"] if "/install.sh" in command[-1])
    packed = re.fullmatch(r"echo (\S+) \| base64 -d \| gunzip > \S+/install.sh", written)
    assert packed is not None
    assert b"# mine" in gzip.decompress(base64.b64decode(packed[1]))


@pytest.mark.allow_programs("ssh-keygen")
def test_all_that_goes_in_lies_open_in_the_workspace(tmp_path: Path) -> None:
    with workspace.create(tmp_path, "relay", workspace.new_bake_id()) as work:
        bake_inputs.fill(work, files=rendered(), template=assets.folder("packer"), config=CONFIG)
        public_key = work.key.with_suffix(".pub").read_text().strip()
        assert public_key in (work.seed / "user-data").read_text()
        assert f"instance-id: bake-{work.bake_id}" in (work.seed / "meta-data").read_text()
        with tarfile.open(work.payload) as payload:
            names = payload.getnames()
        assert {"root/etc/postfix/main.cf", "scripts/configure.sh", "scripts/seal.sh"} <= set(names)
        assert records.load_config(work.path) == CONFIG

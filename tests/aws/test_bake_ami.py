"""`bake_ami` from a configuration to a record, with the real Packer and the real user data."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from builder import record
from builder.bake_ami import AmiRequest, bake_ami
from builder.config import load_config
from builder.errors import BuilderError
from builder.packer import Packer
from tests import packers
from tests.aws.conftest import REGION, Cloud, Instance

pytestmark = pytest.mark.aws

_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]+ bake-\w+")


@contextmanager
def cloud_init(cloud: Cloud, instance: Instance) -> Iterator[None]:
    """Do what cloud-init does on EC2: let in the key that is in the instance's user data."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(0.2):
            for reservation in cloud.ec2.describe_instances()["Reservations"]:
                for found in reservation["Instances"]:
                    if found["State"]["Name"] == "running":
                        _authorize(cloud, instance, found["InstanceId"])

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()


def _authorize(cloud: Cloud, instance: Instance, instance_id: str) -> None:
    sent = cloud.ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
    key = _KEY.search(base64.b64decode(sent["UserData"].get("Value", "")).decode())
    if key is not None:
        instance.authorize(key[0])


def ask(packer: Packer, instance: Instance, template: Path, images: Path) -> AmiRequest:
    return AmiRequest(
        config=load_config(None, {"preset": "ses", "region": "eu-west-1"}),
        release="ubuntu-24.04",
        region=REGION,
        ssh_from="203.0.113.7/32",
        images_dir=images,
        packer=packer.path,
        packer_dir=template,
        variables={
            "ssh_host": "127.0.0.1",
            "ssh_port": instance.port,
            "ssh_timeout": "60s",
            "settle_seconds": 0,
            "poll_seconds": 1,
        },
    )


def write_scripts(template: Path) -> None:
    (template / "scripts/configure.sh").write_text(
        "#!/bin/sh\nset -eu\ntest -e $1/root/etc/postfix/main.cf\n"
    )


def test_ami_is_baked_recorded_and_answered_from_the_record(
    any_packer: Packer,
    cloud: Cloud,
    instance: Instance,
    template: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    write_scripts(template)
    asked = ask(any_packer, instance, template, tmp_path / "images")
    with cloud_init(cloud, instance):
        folder, made = bake_ami(asked)
    packers.note(request, request.node.callspec.params["any_packer"], "ami", "baked")

    assert record.load(folder) == made
    assert record.load_config(folder) == asked.config
    assert made.name == "ses-ubuntu-24.04-ami"
    assert made.base.digest == "ami-0a1b2c3d4e5f60002"
    assert made.base.source.startswith("us-east-1, /aws/service/canonical/ubuntu/server/24.04/")
    image = cloud.ec2.describe_images(ImageIds=[made.artifact.ami_ids[REGION]])["Images"][0]
    assert {"Key": "builder:bake-key", "Value": made.key} in image["Tags"]
    assert "sudo" in {package.name for package in made.packages}
    assert json.loads((folder / "sbom.cdx.json").read_text())["bomFormat"] == "CycloneDX"
    assert not (folder / "id_ed25519").exists()
    assert cloud.left_over() == {"instances": [], "groups": [], "keys": []}

    before = len(cloud.ec2.describe_images(Owners=["self"])["Images"])
    assert bake_ami(asked) == (folder, made)
    assert len(cloud.ec2.describe_images(Owners=["self"])["Images"]) == before


def test_unreachable_instance_is_explained_and_deleted(
    any_packer: Packer, cloud: Cloud, instance: Instance, template: Path, tmp_path: Path
) -> None:
    write_scripts(template)
    (instance.root / "home/bake/.ssh/authorized_keys").unlink(missing_ok=True)
    asked = ask(any_packer, instance, template, tmp_path / "images")
    asked = replace(asked, variables={**asked.variables, "ssh_timeout": "4s"})
    with pytest.raises(BuilderError, match="does not know this bake's key"):
        bake_ami(asked)
    assert cloud.left_over() == {"instances": [], "groups": [], "keys": []}


def test_variable_that_the_template_does_not_have_is_refused_before_anything_is_made(
    any_packer: Packer, cloud: Cloud, instance: Instance, template: Path, tmp_path: Path
) -> None:
    asked = ask(any_packer, instance, template, tmp_path / "images")
    asked = replace(asked, variables={"instance_typ": "t3.nano"})
    with pytest.raises(BuilderError, match="did you mean `instance_type`"):
        bake_ami(asked)
    assert cloud.left_over() == {"instances": [], "groups": [], "keys": []}

"""A moto server as Packer needs it: `python moto_server.py PORT`.

Packer 1.16 sends the snapshot's tags with CreateImage, which moto 5.2 answers with HTTP 500; here they are
put on the snapshot. Canonical's public SSM parameters are there, as they are in every region of AWS.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models.amis import Ami, AmiBackend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.ssm.models import Parameter, ssm_backends
from werkzeug.serving import run_simple

PARAMETER = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
AMI = "ami-0a1b2c3d4e5f60002"

_create_image = AmiBackend.create_image


def create_image(
    self: AmiBackend, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
) -> Ami:
    """Create the image as moto does, and tag its snapshot."""
    others = [spec for spec in tag_specifications if spec["ResourceType"] != "snapshot"]
    ami = _create_image(self, instance_id, name, description, others)
    for spec in tag_specifications:
        if spec["ResourceType"] == "snapshot":
            ami.ebs_snapshot.add_tags({tag["Key"]: tag["Value"] for tag in spec["Tags"]})
    return ami


def add_parameter(region: str) -> None:
    """Put Canonical's parameter where moto keeps AWS's own: `put_parameter` refuses such names."""
    backend = ssm_backends[DEFAULT_ACCOUNT_ID][region]
    parameter = Parameter(  # type: ignore[abstract]  # moto makes it in the same way
        account_id=DEFAULT_ACCOUNT_ID, name=PARAMETER, value=AMI, parameter_type="String", description="",
        allowed_pattern=None, keyid=None, last_modified_date=datetime.now(UTC), version=1, data_type="text",
    )  # fmt: skip
    backend._parameters[PARAMETER].append(parameter)


if __name__ == "__main__":
    AmiBackend.create_image = create_image  # type: ignore[method-assign]
    add_parameter("us-east-1")
    run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=True)

"""The EC2 side of a bake: which AMI to start from, who may reach it, what it is tagged with."""

from __future__ import annotations

import ipaddress
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import aws
from builder.config.values import WIDEST_PUBLIC_PREFIX, within
from builder.errors import BuilderError, ConfigError
from builder.releases import Release
from builder.render.boot import EC2_LIMIT_BYTES
from builder.workspace import Workspace

# AWS's own service that answers with the caller's public address, as its security group guide advises.
CHECK_IP = "https://checkip.amazonaws.com"
# What `values` sets, and the option for it where there is one; `--var` may not set the same.
_OWN = {
    "name": "`--name`",
    "region": "`--ami-region`",
    "source_ami": "`--source-ami`",
    "source": "`--source-ami`",
    "ssh_source_cidrs": "`--ssh-from`",
    "ssh_from": "`--ssh-from`",
    "endpoint": "the environment variable AWS_ENDPOINT_URL_EC2",
    "skip_checks": "the environment variable AWS_ENDPOINT_URL_EC2",
    "ami_name": None,
    "ssh_private_key_file": None,
    "user_data_file": None,
    "tags": None,
    "payload": None,
    "manifest": None,
}
# What is no part of the internet: RFC 1918, 6598 and 4193. Not `is_private`, which takes 0.0.0.0/0 for
# private until Python 3.13.
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
_NARROWER = "Give the network that this machine is in, such as `--ssh-from 203.0.113.7/32`"
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "arm64"}


def private_endpoint() -> str | None:
    """Return the user's own EC2 endpoint, from the variables that AWS's programs read, or None."""
    return os.environ.get("AWS_ENDPOINT_URL_EC2") or os.environ.get("AWS_ENDPOINT_URL") or None


@dataclass(frozen=True)
class SourceAmi:
    """The AMI that a bake starts from: pinned, so that the record can say what it was."""

    ami_id: str
    name: str
    region: str
    found_by: str


def resolve_source(
    release: Release,
    *,
    region: str,
    architecture: str = "amd64",
    ami_id: str | None = None,
    endpoint: str | None = None,
) -> SourceAmi:
    """Pin the source AMI: the one named, or the release's current one by its public SSM parameter.

    Errors: BuilderError when there is none, or it is of another architecture or not available.
    """
    found_by = "--source-ami"
    if ami_id is None:
        ami_id, found_by = _from_parameter(release, region, architecture)
    ec2 = aws.client("ec2", region=region, endpoint=endpoint)
    with aws.calling(f"look up AMI `{ami_id}` in `{region}`"):
        images = ec2.describe_images(ImageIds=[ami_id])["Images"]
    if not images:
        raise BuilderError(f"There is no AMI `{ami_id}` in `{region}`", hint="AMI ids belong to one region")
    image = images[0]
    wanted = _ARCHITECTURES[architecture]
    if image.get("Architecture") != wanted:
        raise BuilderError(
            f"AMI `{ami_id}` is for {image.get('Architecture')}, but the image is baked for {wanted}",
            hint=f"Name one for {wanted} with `--source-ami`, or leave the option out",
        )
    if image.get("State") != "available":
        raise BuilderError(f"AMI `{ami_id}` is `{image.get('State')}`, not available")
    return SourceAmi(ami_id, image.get("Name", ""), region, found_by)


def parameter_names(release: Release, architecture: str) -> tuple[str, ...]:
    """Return the public SSM parameters that may hold a release's current AMI, best first.

    Canonical publishes gp3 images from 23.10 on and gp2 ones before (Ubuntu on AWS, "Find Ubuntu images").
    """
    if release.family == "debian":
        return (f"/aws/service/debian/release/{release.version}/latest/{architecture}",)
    stem = f"/aws/service/canonical/ubuntu/server/{release.version}/stable/current/{architecture}/hvm"
    return (f"{stem}/ebs-gp3/ami-id", f"{stem}/ebs-gp2/ami-id")


def require_free(variables: Mapping[str, Any]) -> None:
    """Check that no variable of `--var` is one that builder sets itself.

    Errors: ConfigError with every such variable, and the option that is meant.
    """
    problems = []
    for name in variables:
        if name in _OWN:
            option = _OWN[name]
            problems.append(
                f"`{name}` is set by builder" + (f"; use {option}" if option else " for each bake")
            )
    if problems:
        raise ConfigError("`--var`", problems)


def caller_cidr(given: str | None = None, *, url: str = CHECK_IP, timeout_seconds: float = 10) -> str:
    """Return the network that may reach the instance's SSH port: `given`, or this machine's public address.

    Errors: BuilderError when the address cannot be asked for, or the network is wider than any one site's.
    """
    text, source = given, "--ssh-from"
    if text is None:
        source = url
        try:
            with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:  # noqa: S310  a constant
                text = answer.read(100).decode("ascii", errors="replace").strip()
        except (urllib.error.URLError, TimeoutError) as error:
            raise BuilderError(
                f"The address of this machine cannot be asked for at `{url}`: {error}",
                hint="Give it with `--ssh-from 203.0.113.7/32`",
            ) from error
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise BuilderError(
            f"`{text}` ({source}) is no network", hint="Give one with `--ssh-from 203.0.113.7/32`"
        ) from error
    if network.prefixlen == 0:
        raise BuilderError(
            f"`{text}` would let everybody reach the instance's SSH port",
            hint=_NARROWER,
        )
    widest = WIDEST_PUBLIC_PREFIX[network.version]
    if network.prefixlen < widest and not within(network, _PRIVATE):
        raise BuilderError(
            f"`{text}` would let {network.num_addresses} addresses reach the instance's SSH port; "
            f"a public network may be a /{widest} at most",
            hint=_NARROWER,
        )
    return str(network)


def check_user_data(path: Path) -> None:
    """Check the bake's user data against EC2's limit, which EC2 itself checks only at launch."""
    size = path.stat().st_size
    if size > EC2_LIMIT_BYTES:
        raise BuilderError(
            f"`{path}` has {size} bytes; EC2 takes {EC2_LIMIT_BYTES} bytes of user data",
            hint="Shorten the template's `scripts/install.sh`; it and the list of packages are in there",
        )


def tags(work: Workspace, *, key: str, preset: str, source: SourceAmi) -> dict[str, str]:
    """Return the tags of everything that a bake creates, so that left-overs can be found by bake id."""
    return {
        "Name": work.name,
        "builder:image": work.name,
        "builder:bake-id": work.bake_id,
        "builder:bake-key": key,
        "builder:preset": preset,
        "builder:source-ami": source.ami_id,
    }


def values(
    work: Workspace,
    source: SourceAmi,
    *,
    tags: Mapping[str, str],
    ssh_from: str,
    endpoint: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the template's variables for a bake on EC2; `options` are more of them by name.

    `instance_type`, `subnet_id`, `encrypt_boot` and the others of source.ami.pkr.hcl have defaults.
    """
    user_data = work.seed / "user-data"
    private = {"endpoint": endpoint, "skip_checks": True} if endpoint else {}
    return {
        "name": work.name,
        "region": source.region,
        "source_ami": source.ami_id,
        # AMI names cannot be used twice; the bake id makes each its own.
        "ami_name": f"{work.name}-{work.bake_id}",
        "ssh_source_cidrs": [ssh_from],
        "ssh_private_key_file": str(work.key),
        "user_data_file": str(user_data),
        "tags": dict(tags),
        "payload": str(work.payload),
        "manifest": str(work.manifest),
        **private,
        **(options or {}),
    }


def expected_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that any bake with these options sets, to check a template before there is one."""
    work = Workspace(Path("images"), "name", "id")
    source = SourceAmi("ami-0", "name", "us-east-1", "--source-ami")
    own = tags(work, key="", preset="", source=source)
    return values(
        work, source, tags=own, ssh_from="127.0.0.1/32", endpoint=private_endpoint(), options=options
    )


def _from_parameter(release: Release, region: str, architecture: str) -> tuple[str, str]:
    names = parameter_names(release, architecture)
    # No endpoint: EC2's is not SSM's. boto3 reads AWS_ENDPOINT_URL_SSM by itself.
    ssm = aws.client("ssm", region=region)
    with aws.calling(f"look up the current AMI of {release.name} in `{region}`"):
        answer = ssm.get_parameters(Names=list(names))
    values = {item["Name"]: item["Value"] for item in answer["Parameters"]}
    for name in names:
        if name in values:
            return values[name], name
    raise BuilderError(
        f"`{region}` has no public AMI of {release.name} for {architecture} (SSM parameter `{names[0]}`)",
        hint="Name one with `--source-ami ami-…`",
    )

"""Bake an AMI: the recipe of `bake` on EC2, up to the record; what was baked is verified there later.

1. `ami.resolve_source`  the AMI to start from, pinned
2. `render`              the same files as for QEMU
3. bake key              a record with that key answers at once
4. `workspace`           the same payload and seed; the seed goes as user data
5. `packer_run`          Packer's amazon-ebs builder; all that it creates carries the bake id
6. `record`              AMI ids by region, packages, timings
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder import (
    __version__,
    ami,
    assets,
    aws,
    bake_inputs,
    bundle,
    console,
    packer,
    packer_output,
    packer_run,
    packer_template,
    sbom,
    workspace,
)
from builder import record as records
from builder.ami import SourceAmi
from builder.config import RelayConfig
from builder.launch.instances import require_replaceable
from builder.packer import Packer
from builder.record import Artifact, ImageRecord, Inputs
from builder.releases import Release, get_release
from builder.render import render
from builder.workspace import Workspace


@dataclass(frozen=True)
class AmiRequest:
    """One bake on EC2 as the user asked for it."""

    config: RelayConfig
    release: str
    region: str
    name: str | None = None
    source_ami: str | None = None
    ssh_from: str | None = None
    """Who may reach the instance's SSH port; without it, this machine's public address is asked for."""
    images_dir: Path = field(default_factory=lambda: Path(os.environ.get("BUILDER_IMAGES", "images")))
    force: bool = False
    packer: Path | None = None
    packer_dir: Path | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    """More of the template's variables, such as `instance_type`, `subnet_id` or `encrypt_boot`."""
    wait_seconds: float = 0


@dataclass(frozen=True)
class AmiPlan:
    """What a bake would do, before anything is created."""

    name: str
    release: Release
    source: SourceAmi
    inputs: Inputs
    files: Mapping[str, str]
    found: tuple[Path, ImageRecord] | None


def plan(request: AmiRequest) -> AmiPlan:
    """Pin the source AMI and work out the bake key; only reads from AWS.

    Errors: BuilderError; for a variable or a network that will not do before AWS is asked for anything.
    """
    release = get_release(request.release)
    ami.require_free(request.variables)
    if request.ssh_from is not None:
        ami.caller_cidr(request.ssh_from)
    packer_template.check(_template(request), ami.expected_values(request.variables), target="ami")
    endpoint = ami.private_endpoint()
    source = ami.resolve_source(release, region=request.region, ami_id=request.source_ami, endpoint=endpoint)
    files = render(request.config, release)
    chosen = {"ami": source.ami_id, "region": source.region, "variables": dict(request.variables)}
    inputs = bake_inputs.describe(
        "ami",
        base=records.digest_of_values(chosen),
        files=files,
        template=_template(request),
        config=request.config,
    )
    name = request.name or f"{request.config.preset}-{release.name}-ami"
    found = None if request.force else records.find(request.images_dir, inputs.key, name=request.name)
    return AmiPlan(name, release, source, inputs, files, found)


def bake_ami(request: AmiRequest) -> tuple[Path, ImageRecord]:
    """Bake an AMI, or answer with the one that was made from the same inputs.

    Returns the record and its folder. Errors: BuilderError; after one, and after Ctrl-C, nothing of the
    bake is left in EC2.
    """
    planned = plan(request)
    if planned.found is not None:
        console.say(f"Image `{planned.found[1].name}` was made from these same inputs")
        return planned.found
    tool = packer.find(request.packer)
    cidr = ami.caller_cidr(request.ssh_from)
    with workspace.create(
        request.images_dir, planned.name, workspace.new_bake_id(), wait_seconds=request.wait_seconds
    ) as work:
        # Another bake may have made it while this one waited for the lock.
        made = None if request.force else records.find_named(work.images_dir, work.name, planned.inputs.key)
        if made is not None:
            console.say(f"Image `{made[1].name}` was made from these same inputs")
            return made
        require_replaceable(work.images_dir, work.name)
        with bundle.kept(work), workspace.no_space(work.path):
            record = _build(request, planned, work, tool, cidr)
            records.save(record, work.path)
            return work.finish(), record


def _build(request: AmiRequest, planned: AmiPlan, work: Workspace, tool: Packer, cidr: str) -> ImageRecord:
    _fill(request, planned, work, tool, cidr)
    environment = aws.process_environment(planned.source.region, endpoint_ec2=ami.private_endpoint())
    with console.step(f"Bake AMI `{planned.name}` in {planned.source.region}") as step:
        built = packer_run.build(tool, work, target="ami", step=step, env=environment)
        timings = {**built.timings, "total": round(step.seconds, 1)}
    work.drop_key()
    printed = packer_output.cut_files(work.packer_log)
    source = planned.source
    record = ImageRecord(
        name=planned.name,
        bake_id=work.bake_id,
        key=planned.inputs.key,
        status="baked",
        preset=request.config.preset,
        base=records.Base(
            name=source.name,
            release=planned.release.name,
            digest=source.ami_id,
            source=f"{source.region}, {source.found_by}",
        ),
        inputs=planned.inputs,
        artifact=Artifact(ami_ids=dict(built.ami_ids)),
        packages=records.parse_packages(printed.get("packages.tsv", "")),
        tools={"builder": __version__, "packer": tool.version},
        timings=timings,
    )
    (work.path / sbom.SBOM).write_text(sbom.make_sbom(record), encoding="utf-8")
    return record


def _fill(request: AmiRequest, planned: AmiPlan, work: Workspace, tool: Packer, cidr: str) -> None:
    """Write what goes into the instance, and the template that makes it."""
    template = _template(request)
    bake_inputs.fill(work, files=planned.files, template=template, config=request.config)
    ami.check_user_data(work.seed / "user-data")
    values = ami.values(
        work,
        planned.source,
        tags=ami.tags(work, key=planned.inputs.key, preset=request.config.preset, source=planned.source),
        ssh_from=cidr,
        endpoint=ami.private_endpoint(),
        options=request.variables,
    )
    packer_template.stage(template, work.packer, packer=tool, target="ami", values=values)


def _template(request: AmiRequest) -> Path:
    return request.packer_dir or assets.folder("packer")

"""Bake an image: relay.yaml → rendered files → Packer → fresh boot → record.

The pipeline, each step taking what the one before gave:

1. `load_config`    relay.yaml and flags become a frozen RelayConfig
2. `base.resolve`   a name or file becomes a local image with its digest; for an AMI, a pinned id
3. `render`         configuration and release become {path: text}; pure, no program and no network
4. `bake_key`       everything that decides the image, hashed; a record with that key answers at once
5. `workspace`      the rendered files as a folder that a person can open
6. `packer_run`     Packer drives QEMU or EC2; an artifact, or a bundle that explains the failure
7. `verify`         the finished image is booted fresh and has to relay mail
8. `record`         one JSON file beside the image; only now does the image have its name

Steps 1 to 4 change nothing outside the cache. An image under `images/NAME` has passed all eight; what fails
on the way stays in `images/.failed/`, with its logs and the reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import (
    __version__,
    assets,
    bake_inputs,
    base,
    bundle,
    console,
    packer,
    packer_output,
    packer_qemu,
    packer_run,
    packer_template,
    sbom,
    workspace,
)
from builder import record as records
from builder.config import RelayConfig
from builder.errors import BuilderError, VerifyError
from builder.launch import Accelerator, announce, choose_accelerator
from builder.launch.instances import require_replaceable
from builder.record import ImageRecord, Profile
from builder.releases import Release, get_release
from builder.render import render
from builder.workspace import Workspace

if TYPE_CHECKING:
    from builder.verify import VerifyReport

# The disk image in an image's folder.
IMAGE = "relay.qcow2"
_ARCH = "amd64"


@dataclass(frozen=True)
class BakeRequest:
    """One bake as the user asked for it."""

    config: RelayConfig
    base: str = base.DEFAULT
    name: str | None = None
    release: str | None = None
    """What a base that is a file holds, where its name does not say it."""
    images_dir: Path = field(default_factory=lambda: Path(os.environ.get("BUILDER_IMAGES", "images")))
    force: bool = False
    profile: Profile | Literal["none"] = "standard"
    """How the finished image is tried; `none` leaves it unverified, and the record says so."""
    packer: Path | None = None
    packer_dir: Path | None = None
    accelerator: str | None = None
    wait_seconds: float = 0


@dataclass(frozen=True)
class Plan:
    """What a bake would do, before anything is done."""

    name: str
    inputs: records.Inputs
    base: base.Base
    release: Release
    files: Mapping[str, str]
    found: tuple[Path, ImageRecord] | None
    """Folder and record of an image that was made from the same inputs."""


def plan(request: BakeRequest) -> Plan:
    """Work out what goes into the image, and whether it is there already; changes nothing.

    Errors: BuilderError for an unknown base or one that cannot be had, a release that nobody named, or a
    template that does not fit.
    """
    chosen = base.resolve(request.base, release=request.release)
    if chosen.arch != _ARCH:
        raise BuilderError(
            f"The base `{chosen.name}` is for {chosen.arch}; builder bakes and boots {_ARCH} under QEMU",
            hint=f"Give an {_ARCH} image, or bake with `--target ami`",
        )
    release = _release_of(chosen, request)
    files = render(request.config, release)
    template = request.packer_dir or assets.folder("packer")
    inputs = bake_inputs.describe(
        "qemu", base=chosen.sha256, files=files, template=template, config=request.config
    )
    name = request.name or f"{request.config.preset}-{release.name}"
    found = None if request.force else records.find(request.images_dir, inputs.key, name=request.name)
    if found is None:
        packer_template.check(template, packer_qemu.expected_values(), target="qemu")
    return Plan(name, inputs, chosen, release, files, found)


def bake(request: BakeRequest) -> tuple[Path, ImageRecord]:
    """Bake, verify and record an image under QEMU, or answer with the same one that was made before.

    Returns the image's folder and record. Errors: BuilderError; nothing that failed is left under the
    image's name.
    """
    planned = plan(request)
    if planned.found is not None:
        return _answer(request, *planned.found)
    tool = packer.find(request.packer)
    packer.require_tools("qemu")
    accelerator = choose_accelerator(request.accelerator)
    packer_qemu.require_bake_space(planned.base.path, request.images_dir)
    with workspace.create(
        request.images_dir, planned.name, workspace.new_bake_id(), wait_seconds=request.wait_seconds
    ) as work:
        # Another bake may have made it while this one waited for the lock.
        made = None if request.force else records.find_named(work.images_dir, work.name, planned.inputs.key)
        if made is not None:
            return _answer(request, *made)
        require_replaceable(work.images_dir, work.name)
        with bundle.kept(work), workspace.no_space(work.path):
            record = _build(request, planned, work, tool, accelerator)
            record = _prove(request, planned, work, record, accelerator)
            require_replaceable(work.images_dir, work.name)  # a relay may have been launched meanwhile
            folder = work.finish()
            records.remember(record, folder)
            return folder, record


def _answer(request: BakeRequest, folder: Path, record: ImageRecord) -> tuple[Path, ImageRecord]:
    """Answer with the image that is there, tried as thoroughly as asked."""
    when = f"{record.created:%Y-%m-%d %H:%M} UTC"
    console.say(f"Image `{record.name}` was made from these same inputs on {when}")
    return folder, _prove_again(request, folder, record)


def _build(
    request: BakeRequest, planned: Plan, work: Workspace, tool: packer.Packer, accelerator: Accelerator
) -> ImageRecord:
    """Go from rendered files to one disk image in the workspace (steps 5 and 6)."""
    timings: dict[str, float] = {}
    template = request.packer_dir or assets.folder("packer")
    bake_inputs.fill(work, files=planned.files, template=template, config=request.config)
    disk = packer_qemu.make_overlay(planned.base.path, work.path / "start.qcow2")
    values = packer_qemu.values(work, disk, accelerator=accelerator.name)
    packer_template.stage(template, work.packer, packer=tool, target="qemu", values=values)
    with console.step(f"Bake `{planned.name}` ({announce(accelerator)})") as step:
        built = packer_run.build(tool, work, target="qemu", step=step)
        timings.update(built.timings)
        step.note("write the image as one file")
        started = step.seconds
        image = packer_qemu.flatten(built.files[0], work.path / IMAGE)
        timings["write"] = round(step.seconds - started, 1)
        timings["total"] = round(step.seconds, 1)
    work.drop_key()
    packages = records.parse_packages(packer_output.cut_files(work.packer_log).get("packages.tsv", ""))
    record = ImageRecord(
        name=planned.name,
        bake_id=work.bake_id,
        key=planned.inputs.key,
        status="baked",
        preset=request.config.preset,
        base=_describe_base(planned),
        inputs=planned.inputs,
        artifact=records.describe_file(image),
        packages=packages,
        tools={"builder": __version__, "packer": tool.version},
        timings=timings,
    )
    (work.path / sbom.SBOM).write_text(sbom.make_sbom(record), encoding="utf-8")
    return record


def _prove(
    request: BakeRequest, planned: Plan, work: Workspace, record: ImageRecord, accelerator: Accelerator
) -> ImageRecord:
    """Let a fresh boot decide whether the image is good (steps 7 and 8)."""
    from builder.verify import verify  # half a second: the stand-ins; a repeated bake does without

    if request.profile == "none":
        records.save(record, work.path)
        return record
    report = verify(
        work.path / IMAGE,
        config=request.config,
        profile=request.profile,
        logs=work.verify_logs,
        accelerator=accelerator,
    )
    proved = record.model_copy(
        update={"status": "verified" if report.passed else "failed", "verify": report.to_json()}
    )
    records.save(proved, work.path)
    if not report.passed:
        raise _not_good(planned.name, report)
    return proved


def _prove_again(request: BakeRequest, folder: Path, record: ImageRecord) -> ImageRecord:
    """Return the record of an image that was made before, once it has been tried as thoroughly as asked."""
    if request.profile == "none" or records.is_proved(record, request.profile):
        return record
    report = verify_again(folder, profile=request.profile, accelerator=request.accelerator)
    if not report.passed:
        raise _not_good(
            record.name, report, hint=f"The logs are in `{report.logs}`; bake anew with `--force`"
        )
    return records.load(folder)


def verify_again(
    folder: Path, *, profile: Profile, logs: Path | None = None, accelerator: str | None = None
) -> VerifyReport:
    """Boot an image that was baked before afresh, check it, and keep the report in its record.

    A pass does not replace the report of a more thorough one.
    Errors: BuilderError when there is no such image, it is not as it was baked, or nothing boots it here.
    """
    from builder.verify import verify  # half a second: the stand-ins

    record = records.load(folder)
    if record.artifact.file is None:
        raise BuilderError(f"Image `{record.name}` is an AMI; only an image file can be verified here")
    records.require_whole(record, folder)
    report = verify(
        folder / record.artifact.file,
        config=records.load_config(folder),
        profile=profile,
        logs=logs,
        accelerator=choose_accelerator(accelerator),
    )
    is_lesser = records.is_proved(record, profile) and (record.verify or {}).get("profile") != profile
    if report.passed and is_lesser:
        return report
    status: Literal["verified", "failed"] = "verified" if report.passed else "failed"
    records.save(record.model_copy(update={"status": status, "verify": report.to_json()}), folder)
    return report


def _not_good(name: str, report: VerifyReport, *, hint: str | None = None) -> BuilderError:
    failed = "; ".join(f"`{check.name}`: {check.evidence}" for check in report.failed)
    return VerifyError(f"Image `{name}` was baked but did not pass `verify`: {failed}", hint=hint)


def _release_of(chosen: base.Base, request: BakeRequest) -> Release:
    if chosen.release is None:
        raise BuilderError(
            f"Nothing says which release `{chosen.path}` holds",
            hint="Say it with `--release`, such as `--release ubuntu-24.04`",
        )
    return get_release(request.release or chosen.release)


def _describe_base(planned: Plan) -> records.Base:
    chosen = planned.base
    return records.Base(
        name=chosen.name,
        release=planned.release.name,
        digest=chosen.sha256,
        source=f"{chosen.source} ({chosen.verified})",
    )

"""`builder bake`: from relay.yaml or a preset to an image that was booted fresh and relayed mail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from builder import console
from builder.cli.options import (
    ConfigFlags,
    accelerator_option,
    ambient_region,
    base_option,
    config_options,
    images_folder,
    json_option,
)
from builder.cli.verbs import Verb

if TYPE_CHECKING:
    from builder.bake import Plan
    from builder.bake_ami import AmiPlan
    from builder.config import RelayConfig
    from builder.record import ImageRecord

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_EXAMPLE = """\
builder bake --preset ses --region eu-west-1 --base debian-12
builder bake --config relay.yaml --target ami --ami-region eu-west-1"""
# Options that belong to one target only: their names in Python, and what the user writes.
_ONLY: dict[str, dict[str, str]] = {
    "qemu": {"release": "--release", "profile": "--verify", "accelerator": "--accelerator"},
    "ami": {
        "ami_region": "--ami-region",
        "source_ami": "--source-ami",
        "ssh_from": "--ssh-from",
        "variables": "--var",
    },
}


@click.command(cls=Verb, example=_EXAMPLE)
@config_options
@click.option(
    "--target",
    type=click.Choice(["qemu", "ami"]),
    default="qemu",
    show_default=True,
    help="A disk image for QEMU, or an AMI on EC2.",
)
@base_option
@click.option("--name", metavar="NAME", help="The image's name; without it, preset and release.")
@click.option("--force", is_flag=True, help="Bake anew though the same image is there.")
@click.option("--dry-run", is_flag=True, help="Say what would be baked, and stop.")
@click.option("--packer", type=_FILE, help="The Packer to use; without it, the one on PATH.")
@click.option("--packer-dir", type=_FOLDER, help="A Packer template of your own in place of ours.")
@click.option(
    "--wait", "wait_seconds", type=click.IntRange(0), default=0, help="Seconds to wait for another bake."
)
@click.option(
    "--release", metavar="NAME", help="qemu: what a base that is a file holds, such as ubuntu-24.04."
)
@click.option(
    "--verify",
    "profile",
    type=click.Choice(["full", "standard", "short", "none"]),
    default="standard",
    show_default=True,
    help="qemu: how the finished image is tried.",
)
@accelerator_option
@click.option("--ami-region", metavar="REGION", help="ami: where to bake; without it, AWS_REGION.")
@click.option(
    "--source-ami", metavar="ID", help="ami: what to start from, in place of the base's current AMI."
)
@click.option("--ssh-from", metavar="CIDR", help="ami: who may reach SSH during the bake; without it, you.")
@click.option(
    "--var", "variables", metavar="NAME=VALUE", multiple=True, help="ami: more of the template's variables."
)
@json_option
def command(flags: ConfigFlags, *, target: str, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Bake an image, boot it fresh, and let it relay mail; only then does it count as good.

    The same request again is answered from the record. An image that fails is kept in `images/.failed`,
    with a bundle that explains it.
    """
    other = "ami" if target == "qemu" else "qemu"
    context = click.get_current_context()
    for name, flag in _ONLY[other].items():
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"`{flag}` goes with `--target {other}` only.")
    if options["name"]:
        from builder.workspace import require_name

        require_name(options["name"])
    run = _on_qemu if target == "qemu" else _on_ec2
    run(flags.read(), dry_run=dry_run, as_json=as_json, **options)


def _on_qemu(
    config: RelayConfig,
    *,
    dry_run: bool,
    as_json: bool,
    ami_region: None,
    source_ami: None,
    ssh_from: None,
    variables: tuple[()],
    **options: Any,
) -> None:
    from builder.bake import BakeRequest, bake, plan

    request = BakeRequest(config=config, images_dir=images_folder(), **options)
    if dry_run:
        planned = plan(request)
        base = f"{planned.base.path}, sha256 {planned.base.sha256} ({planned.base.verified})"
        _report_plan(planned, base, as_json)
        return
    folder, record = bake(request)
    _report(folder, record, record.name, as_json)
    console.say(f"Next: `builder launch {record.name}`, or `builder images {record.name}` to look at it")


def _on_ec2(
    config: RelayConfig,
    *,
    dry_run: bool,
    as_json: bool,
    base: str,
    ami_region: str | None,
    variables: tuple[str, ...],
    release: None,
    accelerator: None,
    profile: str,
    **options: Any,
) -> None:
    from builder.bake_ami import AmiRequest, bake_ami, plan

    request = AmiRequest(
        config=config,
        release=base,
        region=ami_region or ambient_region(),
        variables=dict(_parse_variable(text) for text in variables),
        images_dir=images_folder(),
        **options,
    )
    if dry_run:
        planned = plan(request)
        _report_plan(planned, f"{planned.source.ami_id} in {planned.source.region}", as_json)
        return
    folder, record = bake_ami(request)
    _report(folder, record, "\n".join(record.artifact.ami_ids.values()), as_json)
    console.say(f"Next: `builder images {record.name}` shows what was baked")


def _report(folder: Path, record: ImageRecord, image: str, as_json: bool) -> None:
    if as_json:
        console.out_json({"folder": str(folder), **record.model_dump(mode="json", exclude={"packages"})})
    else:
        console.out(image)


def _parse_variable(text: str) -> tuple[str, Any]:
    """Read `NAME=VALUE`; a value that is JSON (`true`, `20`, `["a"]`) is taken as such, else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"`--var {text}` is not NAME=VALUE.")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _report_plan(planned: Plan | AmiPlan, base: str, as_json: bool) -> None:
    found = str(planned.found[0]) if planned.found else None
    shown = {"name": planned.name, "release": planned.release.name, "base": base, "key": planned.inputs.key}
    files = sorted(planned.files)
    if as_json:
        console.out_json({**shown, "inputs": planned.inputs.model_dump(), "files": files, "found": found})
        return
    console.out_fields({**shown, "there": f"yes, in {found}" if found else "no, it would be baked"})
    console.out("\nWhat goes in (`builder render` shows it)")
    console.out("\n".join(f"  {path}" for path in files))

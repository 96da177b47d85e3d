"""`builder bake`: from relay.yaml or a preset to an image that was booted fresh and relayed mail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder import console
from builder.cli.options import (
    ConfigFlags,
    accelerator_option,
    base_option,
    config_options,
    images_folder,
    json_option,
)
from builder.cli.verbs import Verb

if TYPE_CHECKING:
    from builder.bake import Plan

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(cls=Verb, example="builder bake --preset ses --region eu-west-1 --base debian-12")
@config_options
@base_option
@click.option("--release", metavar="NAME", help="What a base that is a file holds, such as ubuntu-24.04.")
@click.option("--name", metavar="NAME", help="The image's name; without it, preset and release.")
@click.option("--force", is_flag=True, help="Bake anew though the same image is there.")
@click.option("--dry-run", is_flag=True, help="Say what would be baked, and stop.")
@click.option(
    "--verify",
    "profile",
    type=click.Choice(["full", "short", "none"]),
    default="full",
    show_default=True,
    help="How the finished image is tried.",
)
@accelerator_option
@click.option("--packer", type=_FILE, help="The Packer to use; without it, the one on PATH.")
@click.option("--packer-dir", type=_FOLDER, help="A Packer template of your own in place of ours.")
@click.option(
    "--wait", "wait_seconds", type=click.IntRange(0), default=0, help="Seconds to wait for another bake."
)
@json_option
def command(
    flags: ConfigFlags,
    *,
    base: str,
    release: str | None,
    name: str | None,
    force: bool,
    dry_run: bool,
    profile: str,
    accelerator: str | None,
    packer: Path | None,
    packer_dir: Path | None,
    wait_seconds: int,
    as_json: bool,
) -> None:
    """Bake an image, boot it fresh, and let it relay mail; only then does it count as good.

    The same request again is answered from the record. An image that fails is kept in `images/.failed`,
    with a bundle that explains it.
    """
    from builder.bake import BakeRequest, bake, plan

    request = BakeRequest(
        config=flags.read(),
        base=base,
        release=release,
        name=name,
        images_dir=images_folder(),
        force=force,
        profile=profile,  # type: ignore[arg-type]  # click.Choice gives no literal type
        accelerator=accelerator,
        packer=packer,
        packer_dir=packer_dir,
        wait_seconds=wait_seconds,
    )
    if dry_run:
        _report_plan(plan(request), as_json)
        return
    folder, record = bake(request)
    if as_json:
        console.out_json({"folder": str(folder), **record.model_dump(mode="json", exclude={"packages"})})
        return
    console.out(record.name)
    console.say(f"Next: `builder launch {record.name}`, or `builder images {record.name}` to look at it")


def _report_plan(planned: Plan, as_json: bool) -> None:
    if as_json:
        console.out_json(
            {
                "name": planned.name,
                "key": planned.inputs.key,
                "release": planned.release.name,
                "base": planned.base.record(),
                "inputs": planned.inputs.model_dump(),
                "files": sorted(planned.files),
                "found": str(planned.found[0]) if planned.found else None,
            }
        )
        return
    there = f"yes, in {planned.found[0]}" if planned.found else "no, it would be baked"
    console.out_fields(
        {
            "image": planned.name,
            "release": planned.release.name,
            "base": f"{planned.base.path}, {planned.base.verified}",
            "base sha256": planned.base.sha256,
            "key": planned.inputs.key,
            "there already": there,
        }
    )
    console.out("\nWhat goes in (`builder render` shows it)")
    console.out("\n".join(f"  {path}" for path in sorted(planned.files)))

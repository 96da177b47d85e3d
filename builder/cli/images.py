"""`builder images`: what was baked, from what, and whether it was verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder import console
from builder.cli.options import complete_image, find_image_folder, images_folder, json_option
from builder.cli.verbs import Verb
from builder.errors import BuilderError

if TYPE_CHECKING:
    from builder.record import ImageRecord


@click.command(cls=Verb, example="builder images\nbuilder images ses-debian-12")
@click.argument("name", required=False, shell_complete=complete_image)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the images in this folder's `images/`, or show the one called NAME."""
    from builder import record as records

    folder = images_folder()
    if name is not None:
        own = find_image_folder(name)
        record = records.load(own)
        if as_json:
            console.out_json(record.model_dump(mode="json"))
        else:
            _show(record, own)
        return
    found = list(records.images(folder))
    if as_json:
        console.out_json([record.model_dump(mode="json", exclude={"packages"}) for _path, record in found])
        return
    if not found:
        console.say(f"There is no image in `{folder}`; make one with `builder bake --preset ses`")
        return
    rows = [
        (record.name, record.status, record.preset, record.base.name, _when(record), _size(record))
        for _path, record in found
    ]
    console.out_table(("IMAGE", "STATUS", "PRESET", "BASE", "BAKED", "SIZE"), rows)


def _show(record: ImageRecord, folder: Path) -> None:
    console.out_fields(dict(_facts(record, folder)))
    if record.timings:
        console.out("\nHow long it took")
        for phase, seconds in record.timings.items():
            console.out(f"  {phase:24} {console.format_seconds(seconds):>12}")
    if record.verify:
        from builder.verify.report import COLUMNS, read_report

        try:
            report = read_report(record.verify)
        except (KeyError, TypeError, ValueError) as error:
            raise BuilderError(
                f"The report in `{folder / 'record.json'}` cannot be read: {type(error).__name__}: {error}",
                hint=f"Run `builder verify {record.name}`: it writes a new one",
            ) from error
        console.out(f"\nVerified: {report.summary}")
        console.out_table([column.upper() for column in COLUMNS], report.rows())


def _facts(record: ImageRecord, folder: Path) -> Iterator[tuple[str, str]]:
    yield "image", record.name
    yield "status", record.status
    yield "preset", record.preset
    yield "base", f"{record.base.name}, {record.base.digest[:19]}"
    yield "baked", _when(record)
    if record.artifact.file:
        yield "file", f"{folder / record.artifact.file}, {_size(record)}"
        yield "sha256", record.artifact.sha256 or ""
    for region, ami in record.artifact.ami_ids.items():
        yield "AMI", f"{ami} in {region}"
    yield "packages", f"{len(record.packages)}, listed in {folder / 'sbom.cdx.json'}"
    yield "made with", ", ".join(f"{name} {version}" for name, version in record.tools.items())
    yield "key", record.key


def _when(record: ImageRecord) -> str:
    return record.created.strftime("%Y-%m-%d %H:%M UTC")


def _size(record: ImageRecord) -> str:
    return (
        f"{record.artifact.size / 1e6:.0f} MB" if record.artifact.size else ", ".join(record.artifact.ami_ids)
    )

"""`builder verify`: boot an image fresh and run every check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder import console
from builder.cli.options import accelerator_option, complete_image, find_image_folder, json_option
from builder.cli.verbs import Verb
from builder.errors import BuilderError

if TYPE_CHECKING:
    from builder.record import Profile


@click.command(cls=Verb, example="builder verify ses-debian-12\nbuilder verify ses-debian-12 --full")
@click.argument("image", shell_complete=complete_image)
@click.option(
    "--short", "profile", flag_value="short", help="Boot once only: mail, credential, closed relay, seal."
)
@click.option(
    "--full", "profile", flag_value="full", help="Try every fault of the conformance suite in the image too."
)
@click.option(
    "--logs", type=click.Path(path_type=Path, file_okay=False), help="Where logs go when a check fails."
)
@accelerator_option
@json_option
def command(
    image: str, profile: Profile | None, logs: Path | None, accelerator: str | None, as_json: bool
) -> None:
    """Boot IMAGE fresh against stand-ins for everything outside, and check that it is a good relay.

    The report becomes part of the image's record, unless a more thorough one
    has passed. Ends with 1 when a check fails.
    """
    from builder.bake import verify_again
    from builder.verify import COLUMNS

    if logs is not None and logs.exists() and any(logs.iterdir()):
        raise BuilderError(
            f"`{logs}` is not empty, and would be deleted once every check has passed",
            hint="Name a folder for `--logs` that is not there yet",
        )
    folder = find_image_folder(image)
    report = verify_again(folder, profile=profile or "standard", logs=logs, accelerator=accelerator)
    if as_json:
        console.out_json(report.to_json())
    else:
        console.out_table([column.upper() for column in COLUMNS], report.rows())
    if not report.passed:
        names = ", ".join(f"`{check.name}`" for check in report.failed)
        raise BuilderError(f"`{image}` is not a good relay: {names}", hint=f"The logs are in `{report.logs}`")
    console.say(report.summary)

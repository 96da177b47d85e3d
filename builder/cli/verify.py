"""`builder verify`: boot an image fresh and run every check."""

from __future__ import annotations

from pathlib import Path

import click

from builder import console
from builder.cli.options import accelerator_option, complete_image, find_image_folder, json_option
from builder.cli.verbs import Verb
from builder.errors import BuilderError


@click.command(cls=Verb, example="builder verify ses-debian-12")
@click.argument("image", shell_complete=complete_image)
@click.option("--short", is_flag=True, help="Boot once only: mail, credential, closed relay, sealed image.")
@click.option(
    "--logs", type=click.Path(path_type=Path, file_okay=False), help="Where logs go when a check fails."
)
@accelerator_option
@json_option
def command(image: str, short: bool, logs: Path | None, accelerator: str | None, as_json: bool) -> None:
    """Boot IMAGE fresh against stand-ins for everything outside, and check that it is a good relay.

    The report becomes part of the image's record. Ends with 1 when a check fails.
    """
    from builder.bake import verify_again
    from builder.verify import COLUMNS

    if logs is not None and logs.exists() and any(logs.iterdir()):
        raise BuilderError(
            f"`{logs}` is not empty, and would be deleted once every check has passed",
            hint="Name a folder for `--logs` that is not there yet",
        )
    folder = find_image_folder(image)
    report = verify_again(folder, profile="short" if short else "full", logs=logs, accelerator=accelerator)
    if as_json:
        console.out_json(report.to_json())
    else:
        console.out_table([column.upper() for column in COLUMNS], report.rows())
    if not report.passed:
        names = ", ".join(f"`{check.name}`" for check in report.failed)
        raise BuilderError(f"`{image}` is not a good relay: {names}", hint=f"The logs are in `{report.logs}`")
    console.say(report.summary)

"""`builder demo`: all of it on this machine in one go."""

from __future__ import annotations

import click

from builder import console
from builder.cli.options import accelerator_option, images_folder, json_option, preset_option
from builder.cli.verbs import Verb


@click.command(cls=Verb, example="builder demo")
@preset_option("The mail provider whose part the stand-in plays.")
@accelerator_option
@json_option
def command(preset: str, accelerator: str | None, as_json: bool) -> None:
    """Bake an image, boot it, let it fetch a secret and relay a mail, and show the mail.

    Nothing leaves this machine but downloads: provider, Secrets Manager and EC2 metadata are stand-ins on
    loopback. A second run uses the image of the first.
    """
    from builder.demo import demo

    shown = demo(images_dir=images_folder(), preset=preset, accelerator=accelerator)
    if as_json:
        console.out_json(shown.to_json())
        return
    console.out_fields(shown.fields())
    console.say(
        f"\nNext: `builder images {shown.image}`, or `builder verify {shown.image} --full` to try every fault"
    )

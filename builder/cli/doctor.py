"""`builder doctor`: everything that this machine needs, at once, with the command that mends each."""

from __future__ import annotations

import click

from builder import console
from builder.cli.options import images_path, json_option
from builder.cli.verbs import Verb
from builder.errors import BuilderError


@click.command(cls=Verb, example="builder doctor")
@click.option("--aws", is_flag=True, help="Also ask AWS who we are; no secret is shown.")
@click.option("--offline", is_flag=True, help="Do not ask where base images could come from.")
@json_option
def command(aws: bool, offline: bool, as_json: bool) -> None:
    """Show every tool, version, accelerator and permission, and what mends each.

    Ends with 1 when something is missing that `builder bake` and `builder demo` need.
    """
    from builder import doctor
    from builder.base_store import cache_folder

    found = doctor.examine(images=images_path(), cache=cache_folder(), network=not offline, aws=aws)
    if as_json:
        console.out_json([finding.to_json_dict() for finding in found])
    else:
        rows = [(each.name, each.status, each.found, each.needed_to, each.mend) for each in found]
        console.out_table(("WHAT", "STATUS", "FOUND", "NEEDED TO", "WHAT MENDS IT"), rows)
    broken = [finding for finding in found if finding.required and not finding.is_fine]
    install = doctor.apt_command(found)
    if broken:
        names = ", ".join(f"`{finding.name}`" for finding in broken)
        raise BuilderError(
            f"Not usable yet, and needed to bake: {names}", hint=install and f"Run `{install}`"
        )
    console.say("All that `builder bake` and `builder demo` need is here")
    if install:
        console.say(f"For the rest, run `{install}`")

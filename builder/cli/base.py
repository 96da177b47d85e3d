"""`builder base`: the images that a bake starts from; `list`, `fetch` and `build` them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from builder import console
from builder.cli.options import json_option
from builder.cli.verbs import Group, Verb

if TYPE_CHECKING:
    from builder.base_store import Base


def _complete_release(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    from builder.releases import RELEASES

    return [name for name in RELEASES if name.startswith(begun)]


def _complete_cloud_image(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Complete the names of which there is an image to download."""
    from builder.releases import RELEASES

    return [name for name, each in RELEASES.items() if each.family == "ubuntu" and name.startswith(begun)]


@click.group(cls=Group, example="builder base list\nbuilder base fetch ubuntu-24.04")
def command() -> None:
    """List base images, download one, or build one from packages."""


@command.command("list", cls=Verb, example="builder base list")
@json_option
def list_(as_json: bool) -> None:
    """List the names that --base takes, and which of them are in the cache."""
    from builder.base import list_bases

    known = list_bases()
    if as_json:
        console.out_json(
            [
                {"name": each.name, "arch": each.arch, "source": each.source, "cached": _data(each.cached)}
                for each in known
            ]
        )
        return
    rows = [(each.name, each.arch, _state(each.cached), each.source) for each in known]
    console.out_table(("BASE", "ARCH", "IN THE CACHE", "FROM"), rows)


@command.command(cls=Verb, example="builder base fetch ubuntu-24.04")
@click.argument("name", shell_complete=_complete_cloud_image)
@click.option("--refresh", is_flag=True, help="Ask for a newer one though one is in the cache.")
@json_option
def fetch(name: str, refresh: bool, as_json: bool) -> None:
    """Download the base NAME into the cache and check it."""
    from builder.base import resolve

    _report(resolve(name, refresh=refresh), as_json)


@command.command(cls=Verb, example="sudo builder base build debian-12")
@click.argument("name", shell_complete=_complete_release)
@click.option("--mirror", metavar="URL", help="The package mirror; without it, the one that apt uses.")
@click.option("--force", is_flag=True, help="Build anew though one is in the cache.")
@json_option
def build(name: str, mirror: str | None, force: bool, as_json: bool) -> None:
    """Build the base NAME from packages, for a machine that cannot download images; needs root."""
    from builder import base_build

    make = base_build.build if force else base_build.ensure
    _report(make(name, mirror=mirror), as_json)


def _report(base: Base, as_json: bool) -> None:
    if as_json:
        console.out_json(_data(base))
        return
    console.out(str(base.path))
    console.say(f"Next: `builder bake --preset ses --base {base.name}`")


def _data(base: Base | None) -> dict[str, Any] | None:
    return None if base is None else {**base.record(), "path": str(base.path)}


def _state(base: Base | None) -> str:
    if base is None:
        return "no"
    return f"since {base.made_at[:10]}, {base.size_bytes / 1e6:.0f} MB, {base.sha256[:12]}"

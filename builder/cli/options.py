"""Options that several verbs share, and the configuration that they make."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from builder.config import RelayConfig

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_BASE = "ubuntu-24.04"
DEFAULT_CONFIG = Path("relay.yaml")
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True)
class ConfigFlags:
    """The flags of `config_options` as they were given; `read` makes the configuration of them."""

    config: Path | None
    keys: Mapping[str, Any]

    def read(self) -> RelayConfig:
        """Read relay.yaml, if there is one to read, and put the flags over it."""
        from builder.config import load_config

        config = self.config
        if config is None and not self.keys["preset"]:
            if not DEFAULT_CONFIG.exists():
                raise click.UsageError(
                    "Give a provider with `--preset`, such as `--preset ses`, "
                    "or write a relay.yaml with `builder init`."
                )
            config = DEFAULT_CONFIG
        return load_config(config, self.keys if config else _with_region(self.keys))


def ambient_region() -> str:
    """Return the region that the environment names as AWS's own tools read it, or ours."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION


def _with_region(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name a region where flags alone are given and the provider needs one: the environment's, or ours."""
    from builder import console
    from builder.presets import load_preset, preset_names

    if keys["region"] or keys["preset"] not in preset_names() or not load_preset(keys["preset"]).has_regions:
        return keys
    region = ambient_region()
    console.say(f"Region {region}, as no `--region` names another")
    return {**keys, "region": region}


_CONFIG_OPTIONS = (
    click.option(
        "--preset",
        metavar="NAME",
        shell_complete=lambda _ctx, _param, begun: presets_beginning(begun),
        help="The mail provider; `builder presets` lists them.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="A relay.yaml. Without it and --preset, the one in this folder.",
    ),
    click.option("--region", help="The provider's region, such as eu-west-1."),
    click.option("--hostname", help="The relay's own name."),
    click.option("--domain", help="The domain for senders that have none."),
    click.option("--network", "networks", multiple=True, help="Who may relay; may be repeated."),
    click.option("--secret", metavar="NAME", help="The secret's name in Secrets Manager."),
)


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--config`, `--preset` and the flags that stand over the file's keys, as the argument `flags`."""

    @functools.wraps(function)
    def with_flags(*, config: Path | None, networks: tuple[str, ...], **given: Any) -> Any:
        keys = {name: given.pop(name) for name in ("preset", "region", "hostname", "domain", "secret")}
        return function(flags=ConfigFlags(config, {**keys, "networks": list(networks) or None}), **given)

    decorated: Callable[..., Any] = with_flags
    for option in reversed(_CONFIG_OPTIONS):
        decorated = option(decorated)
    return decorated


def preset_option(help_text: str) -> Callable[[F], F]:
    """Add `--preset` to a verb that takes no other configuration; without it, `ses`."""
    return click.option(
        "--preset",
        metavar="NAME",
        default="ses",
        show_default=True,
        shell_complete=lambda _ctx, _param, begun: presets_beginning(begun),
        help=help_text,
    )


def base_option(function: F) -> F:
    """Add `--base`: a release by name, or a local image."""
    option = click.option(
        "--base",
        default=DEFAULT_BASE,
        show_default=True,
        metavar="NAME|FILE",
        shell_complete=_complete_base,
        help="What the image is made from; `builder base list` shows the names.",
    )
    return option(function)


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(function)


def accelerator_option(function: F) -> F:
    """Add `--accelerator`."""
    option = click.option(
        "--accelerator",
        type=click.Choice(["kvm", "tcg"]),
        help="How QEMU runs the guest; without it, kvm where hardware backs it.",
    )
    return option(function)


def images_folder() -> Path:
    """Return the folder that holds the images. Errors: BuilderError when a file stands in its place."""
    from builder.workspace import require_place

    return require_place(images_path(), what="The images", hint="Set BUILDER_IMAGES to a folder")


def images_path() -> Path:
    """Return where the images are: `$BUILDER_IMAGES`, or `images` in this folder; whatever is there."""
    return Path(os.environ.get("BUILDER_IMAGES") or "images")


def instances_folder() -> Path:
    """Return the folder of the relays that were launched from these images."""
    from builder.workspace import INSTANCES

    return images_folder() / INSTANCES


def read_text(path: Path) -> str:
    """Return a file that was named on the command line. Errors: BuilderError when it is not UTF-8 text."""
    from builder.errors import BuilderError

    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BuilderError(f"`{path}` is not UTF-8 text") from None


def find_image(name_or_path: str) -> Path:
    """Return the disk file of an image that was baked here, or the file of that path.

    An image that nobody has tried is warned about. Errors: BuilderError when there is neither, the image is
    an AMI, it has failed its verification, or its file is not the one that was baked.
    """
    from builder import console
    from builder import record as records
    from builder.errors import BuilderError

    if Path(name_or_path).is_file():
        return Path(name_or_path)
    folder = find_image_folder(name_or_path)
    record = records.load(folder)
    if record.artifact.file is None:
        raise BuilderError(f"Image `{record.name}` is an AMI; there is no file of it here")
    file = folder / record.artifact.file
    if record.status == "failed":
        raise BuilderError(
            f"Image `{record.name}` has failed its verification; `builder images {record.name}` says where",
            hint=f"Bake it anew with `--force`; to look into it all the same, give its file: `{file}`",
        )
    records.require_whole(record, folder)
    if record.status == "baked":
        console.warn(f"Image `{record.name}` was never tried; `builder verify {record.name}` does that")
    return file


def find_image_folder(name_or_path: str) -> Path:
    """Return the folder of an image: by the image's name, the folder's path, or that of its disk file."""
    path = Path(name_or_path)
    folder = path.parent if path.is_file() else path
    return folder if (folder / "record.json").is_file() else images_folder() / name_or_path


def complete_image(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of the images that were baked here."""
    found = sorted(path.parent.name for path in images_path().glob("[!.]*/record.json"))
    return [name for name in found if name.startswith(incomplete)]


def presets_beginning(begun: str) -> list[str]:
    """Complete the names of the presets."""
    from builder.presets import preset_names

    return [name for name in preset_names() if name.startswith(begun)]


def _complete_base(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    from builder.releases import RELEASES

    names = [CompletionItem(name) for name in RELEASES if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="file")]

"""`builder render`: every file that would go into an image, without any tool or account."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from builder import console
from builder.cli.options import ConfigFlags, base_option, config_options, json_option
from builder.cli.verbs import Verb
from builder.errors import BuilderError


@click.command(cls=Verb, example="builder render --preset ses --region eu-west-1 --out rendered")
@config_options
@base_option
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Write the files to this folder."
)
@click.option(
    "--boot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What one instance is told at launch, a YAML file such as `networks: [10.0.0.0/8]`.",
)
@json_option
def command(flags: ConfigFlags, *, base: str, out: Path | None, boot: Path | None, as_json: bool) -> None:
    """Write every file that would go into an image: to a folder with --out, else to the screen.

    What is below `root/` goes to that place in the image. `boot/user-data` is for an instance launched
    from it, and refused when EC2 would not take it. --base is a release here, not a file.
    """
    from builder.config import load_boot_config
    from builder.releases import get_release
    from builder.render import render

    told = load_boot_config(boot) if boot else None
    files = render(flags.read(), get_release(base), boot=told)
    _say_when_packed(files["boot/user-data"])
    if out is not None:
        write(files, out)
        console.say(f"Wrote {len(files)} files to {out}")
    if as_json:
        console.out_json(files)
    elif out is None:
        for path, text in sorted(files.items()):
            console.out(f"==> {path} <==\n{text}")
    else:
        console.out("\n".join(str(out / path) for path in sorted(files)))


def _say_when_packed(user_data: str) -> None:
    from builder.render import user_data_as_sent

    size = len(user_data.encode())
    if len(user_data_as_sent(user_data)) < size:
        console.warn(
            f"`boot/user-data` has {size} bytes, more than EC2 takes: send it packed (`gzip -9`), "
            "cloud-init unpacks it"
        )


def write(files: dict[str, str], folder: Path) -> None:
    """Write rendered files, all or none; BuilderError when the folder holds something else.

    They are written beside their places first: a disk that fills up leaves what was there before.
    """
    strangers = [path for path in _files_in(folder) if path not in files]
    if strangers:
        raise BuilderError(
            f"`{folder}` holds files that this would not write, such as `{sorted(strangers)[0]}`",
            hint="Choose an empty folder, or delete that one first",
        )
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix=".builder-", dir=folder) as name:
            for path, text in files.items():
                _ready(Path(name) / path).write_text(text, encoding="utf-8")
            for path in files:
                (Path(name) / path).replace(_ready(folder / path))
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _ready(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _files_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

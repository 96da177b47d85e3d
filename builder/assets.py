"""Find the data folders: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from builder.errors import BuilderError

_PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """Return the folder `cloudinit`, `packer` or `provider_presets`."""
    for candidate in (_PACKAGE / "_assets" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise BuilderError(
        f"The folder `{name}` that belongs to builder is missing beside `{_PACKAGE}`",
        hint="Install builder again: `pip install --force-reinstall smtp-relay-builder`",
    )


def read(name: str, relative: str) -> str:
    """Return a text file of a data folder; they are UTF-8, whatever this machine's locale says."""
    return (folder(name) / relative).read_text(encoding="utf-8")


def files_below(folder: Path) -> list[Path]:
    """List the files under a folder in order, without what Python, editors and Git leave there."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(map(_is_left_behind, path.relative_to(folder).parts))
    ]


def _is_left_behind(name: str) -> bool:
    return name == "__pycache__" or name.startswith(".")

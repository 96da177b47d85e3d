"""The record of an image: what it was made from, what it is, and whether it was verified."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builder import assets, base_store, console
from builder.config import RelayConfig
from builder.errors import BuilderError

RECORD = "record.json"
# What the image was baked from, beside its record.
CONFIG = "config.json"
# How an image is tried, from the quickest to the most thorough: each has all checks of the one before.
Profile = Literal["short", "standard", "full"]
PROFILES: tuple[Profile, ...] = ("short", "standard", "full")
# The packages whose code decides what an image has passed.
_VERIFIER = ("verify", "conformance", "standin")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Inputs(_Model):
    """What decides an image; every value but `target` and `tools` is a sha256 in hex."""

    target: Literal["qemu", "ami"]
    # The base's own digest; for an AMI the digest of its id, which never means another image.
    base: str
    rendered: str
    template: str
    config: str
    # Only versions that change what comes out.
    tools: dict[str, str]

    @property
    def key(self) -> str:
        """The bake key: the same inputs give the same key, and so the same image."""
        return hashlib.sha256(_canonical(self.model_dump())).hexdigest()


class Base(_Model):
    """The base image; `digest` is the sha256 of the file, or the AMI's id."""

    name: str
    release: str
    digest: str
    source: str


class Artifact(_Model):
    """What was made: a file beside the record with its digest and size, or AMI ids by region."""

    # A name and no path: the record lies beside it.
    file: str | None = Field(None, pattern=r"^[^/]+$")
    sha256: str | None = None
    size: int | None = None
    ami_ids: dict[str, str] = {}


class Package(_Model):
    """One installed Debian package; `source` is empty when it is that of the same name."""

    name: str
    version: str
    arch: str
    source: str = ""


class ImageRecord(_Model):
    """`images/NAME/record.json`; `timings` are seconds by phase."""

    schema_version: Literal[1] = 1
    name: str
    bake_id: str
    key: str
    status: Literal["baked", "verified", "failed"]
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    preset: str
    base: Base
    inputs: Inputs
    artifact: Artifact
    packages: tuple[Package, ...] = ()
    tools: dict[str, str] = {}
    timings: dict[str, float] = {}
    verify: dict[str, Any] | None = None


def is_proved(record: ImageRecord, profile: Profile) -> bool:
    """Whether an image has passed a verification that had at least this profile's checks, as they are now."""
    report = record.verify or {}
    passed = report.get("profile")
    proved = passed in PROFILES and PROFILES.index(passed) >= PROFILES.index(profile)
    return record.status == "verified" and proved and report.get("verifier") == verifier()


@functools.cache
def verifier() -> str:
    """Return one sha256 for the code that tries images: other code has other checks, or other limits."""
    package = Path(__file__).parent
    return digest_of(
        {
            f"{name}/{file}": path
            for name in _VERIFIER
            for file, path in files_of_folder(package / name).items()
        }
    )


def digest_of(files: Mapping[str, str | Path]) -> str:
    """Return one sha256 for named contents; a Path stands for what is in that file."""
    digests = {
        name: hashlib.sha256(value.read_bytes() if isinstance(value, Path) else value.encode()).hexdigest()
        for name, value in files.items()
    }
    return hashlib.sha256(_canonical(digests)).hexdigest()


def digest_of_values(values: Mapping[str, Any]) -> str:
    """Return the sha256 of a configuration, whatever the order of its keys."""
    return hashlib.sha256(_canonical(values)).hexdigest()


def files_of_folder(folder: Path) -> dict[str, Path]:
    """Return the files under a folder by their relative names, for `digest_of`."""
    return {path.relative_to(folder).as_posix(): path for path in assets.files_below(folder)}


def describe_file(path: Path) -> Artifact:
    """Describe a disk image that lies beside its record: digest and size."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Artifact(file=path.name, sha256=digest, size=path.stat().st_size)


def parse_packages(text: str) -> tuple[Package, ...]:
    r"""Read `dpkg-query -W -f '${Package}\t${Version}\t${Architecture}\t${Source}\n'`.

    A source with a version of its own is written `name (version)`; only the name is kept.
    """
    packages = []
    for line in text.splitlines():
        fields = [*line.split("\t"), "", "", "", ""]
        if fields[0] and fields[1]:
            source = fields[3].strip().partition(" ")[0]
            packages.append(Package(name=fields[0], version=fields[1], arch=fields[2].strip(), source=source))
    return tuple(packages)


def save(record: ImageRecord, folder: Path) -> Path:
    """Write `record.json` into a folder; it is there whole or as it was before."""
    path = folder / RECORD
    partial = folder / f".{RECORD}.partial"
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(record.model_dump_json(indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    return path


def load(folder: Path) -> ImageRecord:
    """Read an image's record. Errors: BuilderError when there is none, or it cannot be read."""
    path = folder / RECORD
    try:
        return ImageRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BuilderError(
            f"There is no image `{folder.name}` in `{folder.parent}`", hint="List them with `builder images`"
        ) from error
    except OSError as error:
        raise BuilderError(
            f"`{path}` cannot be read: {error.strerror}", hint=f"Mend it, or delete the folder `{folder}`"
        ) from error
    except ValidationError as error:
        raise BuilderError(
            f"`{path}` is not a record that this builder can read: {_first_problem(error)}",
            hint=f"Bake it again with `--force`, or delete the folder `{folder}`",
        ) from error


def load_config(folder: Path) -> RelayConfig:
    """Read what an image was baked from. Errors: BuilderError when the file is missing or spoilt."""
    path = folder / CONFIG
    try:
        return RelayConfig.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        what = "is not there" if isinstance(error, OSError) else "cannot be read by this builder"
        raise BuilderError(
            f"`{path}`, which says what the image was baked from, {what}",
            hint=f"Bake `{folder.name}` again with `--force`",
        ) from error


def images(images_dir: Path) -> Iterator[tuple[Path, ImageRecord]]:
    """Yield folder and record of every image, by name; one that cannot be read is warned about."""
    for path in sorted(images_dir.glob(f"[!.]*/{RECORD}")):
        try:
            yield path.parent, load(path.parent)
        except BuilderError as error:
            console.warn(f"{error.message}. {error.hint}")


def find(images_dir: Path, key: str, *, name: str | None = None) -> tuple[Path, ImageRecord] | None:
    """Find the image, or that of this name, that was made from the same inputs; a spoilt one is told."""
    for folder, record in images(images_dir):
        if record.key != key or record.status == "failed" or name not in (None, record.name):
            continue
        wrong = what_is_wrong(record, folder)
        if not wrong:
            return folder, record
        console.warn(f"{wrong}, so it does not count as image `{record.name}`")
    return None


def find_named(images_dir: Path, name: str, key: str) -> tuple[Path, ImageRecord] | None:
    """Find the image NAME if it was made from the same inputs; a second look, which repeats no warning."""
    folder = images_dir / name
    with suppress(BuilderError):
        record = load(folder)
        if record.key == key and record.status != "failed" and not what_is_wrong(record, folder):
            return folder, record
    return None


def what_is_wrong(record: ImageRecord, folder: Path) -> str:
    """Say why the artifact is not the one that was recorded; empty when it is.

    A file is read only when it has changed since the last time. An AMI counts as there: asking takes a call.
    """
    artifact = record.artifact
    if artifact.file is None:
        return "" if artifact.ami_ids else f"`{folder / RECORD}` names neither a file nor an AMI"
    path = folder / artifact.file
    try:
        size = path.stat().st_size
        if size != artifact.size:
            return f"`{path}` has {size} bytes, its record says {artifact.size}"
        found = base_store.file_sha256(path)
    except OSError as error:
        return f"`{path}` cannot be read: {error.strerror}"
    if found != artifact.sha256:
        return f"`{path}` has sha256 {found}, its record says {artifact.sha256}"
    return ""


def require_whole(record: ImageRecord, folder: Path) -> None:
    """Check that an image is as it was baked. Errors: BuilderError that says what differs."""
    wrong = what_is_wrong(record, folder)
    if wrong:
        raise BuilderError(
            f"Image `{record.name}` is not as it was baked: {wrong}",
            hint="Put its file back, or bake it again: `builder bake` does not take it for an image",
        )


def remember(record: ImageRecord, folder: Path) -> None:
    """Note that an image that was just made is as recorded, so that it is not read once more."""
    if record.artifact.file is not None and record.artifact.sha256 is not None:
        base_store.remember(folder / record.artifact.file, record.artifact.sha256)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])

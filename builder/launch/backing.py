"""What the disk of a launched relay builds upon: a hard link to its image, or the image itself."""

from __future__ import annotations

import os
from pathlib import Path

from builder import console

# Beside the disk, in the instance's own folder.
LINK = "image"


def link(image: Path, home: Path) -> Path | None:
    """Link an image into an instance's folder; the image may then be replaced or deleted.

    None, and a word about it, where it cannot be linked, as on another file system.
    """
    own = home / LINK
    try:
        os.link(image.resolve(), own)
    except OSError as error:
        console.say(
            f"`{image}` cannot be linked to ({error.strerror}): keep it as it is for as long as "
            f"`{home.name}` is there"
        )
        return None
    return own


def stamp(image: Path) -> tuple[int, int]:
    """Return size and modification time (ns): another file, or a changed one, has others."""
    facts = image.stat()
    return facts.st_size, facts.st_mtime_ns

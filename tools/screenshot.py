"""Draw what a command prints on a terminal as an SVG: `script -qec "make demo" demo.typescript`, then this.

    python tools/screenshot.py demo.typescript docs/demo.svg --title "make demo"

The text is the command's own; only lines that a spinner overwrote are left out.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

_WIDTH = 110
# `script` writes a line of its own at both ends.
_FRAME = re.compile(r"^Script (started|done) ")
# A frame of a spinner: a dot pattern of Braille, with or without colour.
_SPINNER = re.compile(r"(?:\x1b\[[0-9;]*m)*[\u2800-\u28ff]")
# A finished spinner goes back to the line that it had begun.
_UP = "\x1b[1A"
# Cursor movements and line erasures; colours (`…m`) stay.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-ln-z]")


def read_lines(path: Path) -> list[str]:
    """Return the lines as they were left on the screen."""
    lines = []
    for raw in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        # A spinner erases its line and writes it again; the last is what stays. Paths of this machine do not.
        last = raw.rstrip("\r").rsplit("\r", 1)[-1].rsplit("\x1b[2K", 1)[-1]
        shown = _CONTROL.sub("", last).replace(f"{Path.cwd()}/", "")
        if _UP in raw and lines and not lines[-1]:
            lines.pop()
        if not _FRAME.match(shown) and not _SPINNER.match(shown):
            lines.append(shown.rstrip())
    return lines


def main() -> None:
    """Read a typescript and write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("typescript", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--title", default="builder")
    options = parser.parse_args()
    console = Console(width=_WIDTH, record=True, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi("\n".join(read_lines(options.typescript)).strip("\n")))
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    options.picture.write_text(console.export_svg(title=options.title), encoding="utf-8")


if __name__ == "__main__":
    main()

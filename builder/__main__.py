"""The `builder` command, and `python -m builder`: Ctrl-C during the imports is no traceback either."""

from __future__ import annotations

import sys
from typing import NoReturn


def run() -> NoReturn:
    """Load the command line and run it; see `builder.cli.main` for the exit codes."""
    try:
        from builder.cli import main
    except KeyboardInterrupt:
        sys.exit(130)
    main()


if __name__ == "__main__":
    run()

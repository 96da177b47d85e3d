"""Read the command line of `relayctl` and run the command."""

from __future__ import annotations

import argparse
import sys
from typing import Sequence

from relay_agent import __version__
from relay_agent.ctl import doctor, drain, queue_commands, send_test, status
from relay_agent.ctl.context import Context, Out
from relay_agent.places import Places
from relay_agent.trouble import Trouble

_EXAMPLES = """\
examples:
  relayctl status                     what the relay does, and since when
  relayctl doctor                     why mail does not arrive, step by step
  relayctl send-test you@example.com  send one message and follow it to its last reply
  relayctl queue                      what waits, and why
  relayctl drain                      take no more mail and wait until the queue is empty
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="relayctl",
        description="Look after this SMTP relay.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (status, doctor, send_test, queue_commands, drain):
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None, context: Context | None = None) -> int:
    """Run one command; 0 done, 1 it failed or found something wrong, 2 wrong usage."""
    arguments = build_parser().parse_args(argv)
    context = context or Context(Places(), Out(sys.stdout))
    try:
        return int(arguments.run(context, arguments))
    except Trouble as trouble:
        sys.stderr.write(f"error: {trouble.message}\n")
        if trouble.hint:
            sys.stderr.write(f"\nhint: {trouble.hint}\n")
        return 1
    except PermissionError as error:
        sys.stderr.write(f"error: {error.filename or 'a file'} may be read by root only\n")
        sys.stderr.write("\nhint: Run `sudo relayctl …`\n")
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or 'a file'}: {error.strerror}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())

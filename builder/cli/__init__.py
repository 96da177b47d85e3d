"""The command line: one module per verb, loaded only when that verb runs, so that `--help` is quick."""

from __future__ import annotations

import errno
import io
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from builder.cli.verbs import VERBS, Verbs
from builder.errors import BuilderError

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_HINT = (
    "See which one with `df -h`; builder writes to `images` (or BUILDER_IMAGES), to its cache "
    "(BUILDER_CACHE) and to the temporary directory (TMPDIR)"
)
_REFUSED_HINT = "Name another place, or change that one; `builder --debug …` shows what was tried"


class _Stopped(KeyboardInterrupt):
    """A signal that ends the program as Ctrl-C does, so that everything is cleaned up."""

    number: int = signal.SIGINT


@click.group(
    cls=Verbs,
    verbs=VERBS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `builder render --preset ses`: it needs no tool and no account.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="smtp-relay-builder", prog_name="builder")
def cli(debug: bool) -> None:
    """Bake golden images of an SMTP relay, prove that they relay mail, and launch them."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end: 0 done, 1 it failed, 2 wrong usage, 128 + N stopped by signal N."""
    words = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):  # a locale without `…` must not end what is printed
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stdin is None:  # closed, `<&-`: there is nothing to read
        sys.stdin = io.StringIO()
    for number in _SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores SIGHUP; that stays
            signal.signal(number, _stop)
    sys.exit(_run(words))


def _run(words: list[str]) -> int:
    try:
        return int(cli.main(words, prog_name="builder", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BuilderError as error:
        return _failed(error, words)
    except (click.Abort, KeyboardInterrupt) as error:
        return _interrupted(error)
    except OSError as error:
        return _refused(error, words)


def _failed(error: BuilderError, words: list[str]) -> int:
    from builder import console

    if "--debug" in words:
        console.traceback(error)
    console.fail(error)
    return 1


def _refused(error: OSError, words: list[str]) -> int:
    """Report a file or folder that the machine refused; any other OSError is a bug.

    Such errors can come from every line that reads or writes; a verb says more where it knows more.
    """
    if error.filename is None and error.errno not in _FULL:
        raise error
    where = "" if error.filename is None else f" at `{error.filename}`"
    if error.errno in _FULL:
        message, hint = f"The disk is full{where}: {error.strerror}", _FULL_HINT
    else:
        message, hint = f"Cannot read or write `{error.filename}`: {error.strerror}", _REFUSED_HINT
    shown = BuilderError(message, hint="\n".join([hint, *getattr(error, "__notes__", ())]))
    shown.__cause__ = error
    code = _failed(shown, words)
    _drop_stdout()
    return code


def _interrupted(error: BaseException) -> int:
    """Say it in one line; by now every `with` block has cleaned up."""
    cause = error if isinstance(error, _Stopped) else error.__context__
    number = cause.number if isinstance(cause, _Stopped) else signal.SIGINT
    click.echo("stopped", err=True)
    return 128 + number


def _drop_stdout() -> None:
    """Forget what stdout could not take (`>/dev/full`), or Python complains of it once more at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = io.StringIO()


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    stopped = _Stopped()
    stopped.number = number
    raise stopped

"""Run the stand-ins as a program: `python -m builder.standin --config FILE`, until SIGTERM or Ctrl-C.

The file (`-` is stdin) holds the options of `Provider`, or, when `secret_name` is among them, those of
`StandIns`; passwords belong there and not on the command line. One JSON line on stdout says where
everything listens; the control interface is described in `builder.standin.control`.
"""

from __future__ import annotations

import inspect
import json
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from builder import console
from builder.errors import BuilderError
from builder.scratch import Scratch
from builder.standin.control import Control
from builder.standin.provider import Provider


@click.command(epilog='Example: echo \'{"users": {"u": "p"}}\' | python -m builder.standin --config -')
@click.option("--config", type=click.File(), help="JSON file with the options, `-` for stdin.")
@click.option("--control-port", type=int, default=0, help="Port of the control interface.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the certificate authority is kept.")
def main(config: Any, control_port: int, folder: Path | None) -> None:
    """Run a scripted SMTP provider on loopback, with a Secrets Manager and metadata when asked for."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        with ExitStack() as stack:
            kept = folder or stack.enter_context(Scratch("standin"))
            options = _read_options(config)
            if "secret_name" in options:
                provider, where = _run_all(stack, options, kept)
            else:
                provider, where = stack.enter_context(_new(Provider, {**options, "ca_folder": kept})), {}
            control = stack.enter_context(Control(provider, port=control_port))
            console.out(json.dumps({**_where(provider, control, kept), **where}))
            ended.wait()
    except BuilderError as error:
        console.fail(error)
        sys.exit(1)


def _read_options(config: Any) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        options = json.load(config)
    except ValueError as error:
        raise BuilderError(f"`{config.name}` is not JSON: {error}") from error
    if not isinstance(options, dict):
        raise BuilderError(f"`{config.name}` is not a JSON object")
    return options


def _run_all(stack: ExitStack, options: dict[str, Any], kept: Path) -> tuple[Provider, dict[str, Any]]:
    from builder.standin.stack import StandIns  # moto takes a second to import

    provider_options = {**options.pop("provider_options", {}), "ca_folder": kept}
    stand_ins = stack.enter_context(_new(StandIns, {**options, "provider_options": provider_options}))
    return stand_ins.provider, {
        "secrets_endpoint": stand_ins.secrets.endpoint,
        "imds_endpoint": stand_ins.metadata.endpoint,
        "boot_json": stand_ins.boot_json,
        "hosts_line": stand_ins.hosts_line,
    }


def _new(kind: Any, options: Mapping[str, Any]) -> Any:
    known = list(inspect.signature(kind).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise BuilderError(f"There is no option `{unknown[0]}`", hint=f"Known: {', '.join(known)}")
    return kind(**options)


def _where(provider: Provider, control: Control, kept: Path) -> dict[str, Any]:
    return {
        "address": provider.address,
        "port": provider.port,
        "tls_port": provider.tls_port,
        "host_names": provider.host_names,
        "ca_file": str(kept.resolve() / "ca.pem"),
        "control": control.url,
    }


if __name__ == "__main__":
    main()

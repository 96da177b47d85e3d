"""Speak to a running QEMU: the QEMU Machine Protocol over a Unix socket."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from builder.errors import BuilderError


class QmpError(BuilderError):
    """QEMU does not answer on its control socket, or refused a command."""


def execute(path: Path, command: str, arguments: dict[str, Any] | None = None) -> Any:
    """Run one command and return its `return` value.

    One connection per command: QEMU serves one client at a time. Errors: QmpError.
    Source: docs/interop/qmp-spec.txt of QEMU.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(path))
            stream = connection.makefile("rwb")
            _read(stream)  # the greeting
            _send(stream, "qmp_capabilities", None)
            return _send(stream, command, arguments)
    except (OSError, ValueError) as error:
        raise QmpError(f"QEMU does not answer on `{path}`: {error}") from error


def _send(stream: Any, command: str, arguments: dict[str, Any] | None) -> Any:
    message: dict[str, Any] = {"execute": command}
    if arguments:
        message["arguments"] = arguments
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()
    while True:
        answer = _read(stream)
        if "error" in answer:
            raise QmpError(f"QEMU refused `{command}`: {answer['error'].get('desc', answer['error'])}")
        if "return" in answer:
            return answer["return"]
        # Anything else is an event that happened meanwhile.


def _read(stream: Any) -> dict[str, Any]:
    line = stream.readline()
    if not line:
        raise OSError("the connection was closed")
    answer: dict[str, Any] = json.loads(line)
    return answer

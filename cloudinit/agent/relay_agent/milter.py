"""Ask a milter to sign a message that is sent nowhere: shows that signing works, before mail depends on it.

The wire format is that of libmilter: four bytes of length, one letter, data. Postfix has the same numbers in
src/milter/milter8.c.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Iterator, Mapping, Tuple

from relay_agent.trouble import Trouble

_TIMEOUT_SECONDS = 5.0
_LONGEST = 1 << 20
# Version 6, every action a filter may ask for, and no step that it may leave out: each gets its answer.
_HELLO = struct.pack(">III", 6, 0x1FF, 0)
_ADD, _INSERT, _PROGRESS, _CONTINUE, _ACCEPT = b"h", b"i", b"p", b"c", b"a"


def signature(path: Path, domain: str) -> Mapping[str, str]:
    """Return the tags of the DKIM signature that a message of this domain gets (RFC 6376, 3.5).

    Errors: Trouble `dkim-down` when nobody answers, `dkim-unsigned` when there is no signature.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            connection.connect(str(path))
            return _tags(_signed(connection, domain), domain)
    except (OSError, struct.error) as error:
        raise Trouble(
            "dkim-down",
            f"The DKIM signer does not answer at {path} ({error})",
            hint="`systemctl status relay-dkim`, `journalctl -u relay-dkim`",
        ) from None


def _signed(connection: socket.socket, domain: str) -> str:
    """Send one message and return the header that the signer adds; empty without one."""
    _send(connection, b"O", _HELLO)
    _receive(connection)
    for letter, data in _steps(domain):
        _send(connection, letter, data)
        answer, _ = _receive(connection)
        if answer != _CONTINUE:
            return ""
    _send(connection, b"E", b"")
    found = ""
    while True:
        answer, data = _receive(connection)
        if answer in (_ADD, _INSERT):
            name, _, value = data[4 if answer == _INSERT else 0 :].partition(b"\0")
            if name.lower() == b"dkim-signature":
                found = value.rstrip(b"\0").decode("ascii", "replace")
        elif answer != _PROGRESS:
            _send(connection, b"Q", b"")
            return found if answer in (_CONTINUE, _ACCEPT) else ""


def _steps(domain: str) -> Iterator[Tuple[bytes, bytes]]:
    address = f"relay-check@{domain}".encode("ascii")
    yield b"C", b"localhost\0" + b"4" + struct.pack(">H", 25) + b"127.0.0.1\0"
    yield b"H", b"localhost\0"
    yield b"M", b"<" + address + b">\0"
    yield b"R", b"<" + address + b">\0"
    yield b"L", b"From\0<" + address + b">\0"
    yield b"L", b"Subject\0can it be signed?\0"
    yield b"N", b""
    yield b"B", b"This message is sent nowhere.\r\n"


def _send(connection: socket.socket, letter: bytes, data: bytes) -> None:
    connection.sendall(struct.pack(">I", len(data) + 1) + letter + data)


def _receive(connection: socket.socket) -> Tuple[bytes, bytes]:
    (length,) = struct.unpack(">I", _read(connection, 4))
    if not 0 < length <= _LONGEST:
        raise OSError("it does not speak the milter protocol")
    packet = _read(connection, length)
    return packet[:1], packet[1:]


def _read(connection: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        part = connection.recv(length - len(parts))
        if not part:
            raise OSError("it closed the connection")
        parts += part
    return parts


def _tags(header: str, domain: str) -> Mapping[str, str]:
    pairs = (part.partition("=") for part in "".join(header.split()).split(";"))
    tags = {name: value for name, _, value in pairs if name}
    if not tags.get("b"):
        raise Trouble(
            "dkim-unsigned",
            f"The DKIM signer does not sign mail of {domain}",
            hint="`journalctl -t opendkim` says why",
        )
    return tags

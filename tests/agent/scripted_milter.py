"""A DKIM signer that the test scripts: what agent.json says of it, keys, and a milter on a Unix socket."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

KEYS = [
    {"domain": "example.com", "selector": "s1", "secret": "relay/dkim", "file": "/run/relay-dkim/keys/a.pem"},
    {"domain": "b.example", "selector": "s2", "secret": "relay/dkim-b", "file": "/run/relay-dkim/keys/b.pem"},
]
PLAN: dict[str, Any] = {
    "unit": "relay-dkim.service",
    "socket": "/run/relay-dkim/milter/socket",
    "must_sign": True,
    "keys": KEYS,
}


def rsa_key(bits: int) -> str:
    command = ["openssl", "genrsa", str(bits)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Milter:
    """A signer at the other end of a Unix socket; `behaviour` is what it does with each message."""

    def __init__(self, path: Path, domains: dict[str, str]) -> None:
        self.path, self.domains = path, domains
        self.behaviour = "sign"
        self.messages = 0
        self._server: socket.socket | None = None

    def start(self) -> None:
        server = self._server = socket.socket(socket.AF_UNIX)
        server.bind(str(self.path))
        server.listen()
        threading.Thread(target=self._serve, args=(server,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._server = None
            self.path.unlink()

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        stream, domain = connection.makefile("rb"), ""
        while head := stream.read(4):
            packet = stream.read(struct.unpack(">I", head)[0])
            letter, data = packet[:1], packet[1:]
            if letter == b"L" and data.startswith(b"From\0"):
                domain = data.decode().rstrip("\0").rpartition("@")[2].rstrip(">")
            for answer in self._answers(letter, domain):
                connection.sendall(struct.pack(">I", len(answer)) + answer)

    def _answers(self, letter: bytes, domain: str) -> list[bytes]:
        if letter == b"Q":
            return []
        if letter == b"O":
            return [b"O" + struct.pack(">III", 6, 1, 0)]
        if letter != b"E":
            return [b"t" if self.behaviour == "tempfail" else b"c"]
        self.messages += 1
        if self.behaviour == "unsigned":
            return [b"c"]
        value = f"v=1; a=rsa-sha256; d={domain};\r\n\ts={self.domains.get(domain)}; b=abc=="
        insert = b"i" + struct.pack(">I", 0) + b"DKIM-Signature\0" + value.encode() + b"\0"
        return [b"p", insert, b"a"]

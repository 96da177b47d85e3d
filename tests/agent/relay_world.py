"""A relay without a relay: the agent's files under a folder, fake Postfix programs, a port that greets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relay_agent.places import Places

from tests.fakes import FakeTools

SECRET = "relay/ses"
USER = "AKIAEXAMPLEUSER"
PASSWORD = "Canary+Pass/word=0123456789"
SHAPES = [
    {
        "name": "iam_access_key",
        "fields": ["access_key_id", "secret_access_key"],
        "username": "{access_key_id}",
        "password": "{secret_access_key}",
        "derive": "ses_smtp_v4",
    },
    {
        "name": "smtp",
        "fields": ["username", "password"],
        "username": "{username}",
        "password": "{password}",
        "derive": None,
    },
]


def upstream_json(**changes: Any) -> dict[str, Any]:
    """One upstream of agent.json; the stand-in's certificate is for `localhost`."""
    return {
        "name": "primary",
        "host": "localhost",
        "port": 587,
        "tls": "starttls",
        "shapes": SHAPES,
        "mechanisms": ["plain", "login"],
        "secret": SECRET,
        "region": "us-east-1",
        **changes,
    }


def agent_json(**changes: Any) -> dict[str, Any]:
    """What an image is baked with."""
    return {
        "schema": 1,
        "preset": "ses",
        "region": "us-east-1",
        "upstreams": [upstream_json()],
        "networks": ["10.0.0.0/8"],
        "hostname": "relay.example.com",
        "health_port": 8025,
        "poll_seconds": 60,
        "boot_deadline_seconds": 300,
        "postfix_unit": "postfix@-.service",
        **changes,
    }


def make_places(root: Path, smtp_port: int = 25) -> Places:
    """Make the folders that exist in an image."""
    places = Places(root, smtp_port=smtp_port)
    for folder in (
        places.agent_json.parent,
        places.run_dir,
        places.been_ready.parent,
        root / "proc/self/net",
    ):
        folder.mkdir(parents=True, exist_ok=True)
    places.run_dir.chmod(0o750)
    places.machine_id.write_text("0123456789abcdef0123456789abcdef\n")
    return places


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file as cloud-init or the bake does."""
    path.write_text(json.dumps(value))


_POSTCONF = """\
case "$1" in
-M) if [ -e {state}/listener ]; then echo 'smtp inet n - n - - smtpd'; fi ;;
-Me) touch {state}/listener ;;
-MX) rm -f {state}/listener ;;
-h) echo '[localhost]:587' ;;
-e) shift; printf '%s\\n' "$@" >>{state}/settings ;;
esac
"""
_POSTFIX = """\
case "$1" in
status) [ -e {state}/running ] ;;
reload) if [ -e {state}/listener ]; then cp {state}/open {table}; else cp {state}/closed {table}; fi ;;
esac
"""
_POSTQUEUE = """\
case "$1" in
-j) cat {state}/queue ;;
esac
"""


class FakePostfix:
    """Fake `postconf`, `postfix`, `postqueue`, `postsuper` and `nft`, and what they changed."""

    def __init__(self, folder: Path, places: Places, fake_tool: FakeTools) -> None:
        self.folder = folder
        folder.mkdir()
        self._table, self._sockets = places.kernel_sockets[0], places.unix_sockets
        port = f"{places.smtp_port:04X}"
        header = "  sl  local_address rem_address   st\n"
        (folder / "closed").write_text(header + "   0: 0100007F:1F59 00000000:0000 0A\n")
        (folder / "open").write_text(header + f"   0: 00000000:{port} 00000000:0000 0A\n")
        self._table.write_text((folder / "closed").read_text())
        self.set_queue("")
        names = {"state": folder, "table": self._table}
        self.postconf = fake_tool("postconf", _POSTCONF.format(**names))
        self.postfix = fake_tool("postfix", _POSTFIX.format(**names))
        self.postqueue = fake_tool("postqueue", _POSTQUEUE.format(**names))
        self.postsuper = fake_tool("postsuper")
        self.nft = fake_tool("nft", f"cat >>{folder}/nft")
        self.start()

    def start(self) -> None:
        """Let Postfix run; with a listener in master.cf it listens."""
        (self.folder / "running").touch()
        self._sockets.write_text("ffff: 00000002 00000000 00010000 0001 01 12345 public/showq\n")
        kind = "open" if self.has_listener else "closed"
        self._table.write_text((self.folder / kind).read_text())

    def stop(self) -> None:
        """Let Postfix be down."""
        (self.folder / "running").unlink()
        self._sockets.write_text("")
        self._table.write_text((self.folder / "closed").read_text())

    def set_queue(self, lines: str) -> None:
        """What `postqueue -j` prints."""
        (self.folder / "queue").write_text(lines)

    @property
    def has_listener(self) -> bool:
        """Is port 25 open in master.cf?"""
        return (self.folder / "listener").exists()

    @property
    def is_open(self) -> bool:
        """Does the kernel show a listener?"""
        return self._table.read_text() == (self.folder / "open").read_text()

    @property
    def settings(self) -> list[str]:
        """What `postconf -e` was given."""
        path = self.folder / "settings"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def reloads(self) -> int:
        """How often `postfix reload` ran."""
        return self.postfix.calls.count(["reload"])

    @property
    def flushes(self) -> int:
        """How often `postqueue -f` ran."""
        return self.postqueue.calls.count(["-f"])


@contextmanager
def greeter() -> Iterator[int]:
    """A port on loopback that greets like an SMTP server; gives its number."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:  # shut down
                    return
                with client:
                    client.settimeout(2)
                    client.sendall(b"220 relay ESMTP\r\n")
                    client.recv(100)
                    client.sendall(b"221 bye\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()

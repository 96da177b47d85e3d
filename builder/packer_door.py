"""A port between Packer and a machine's SSH that answers as soon as the machine does.

QEMU's user network accepts a connection before the guest has a network, and asks the guest again after
ever longer pauses; Packer gives such a connection a minute and then tries again every 7 seconds. So SSH is
often seen half a minute after it is there. Here Packer's connection is held, the machine is asked twice a
second, and both are joined when it says its first word.
"""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from contextlib import suppress

from builder.errors import BuilderError

_POLL_SECONDS = 0.2
# Until the guest has a network an attempt gets no answer at all; asking anew is the only way to have QEMU
# ask the guest again. Three at a time, so that a slow sshd is not flooded.
_ASK_AGAIN_SECONDS = 1.0
_MOST_ATTEMPTS = 3
_CHUNK = 1 << 16


def free_ports(count: int) -> list[int]:
    """Return free ports of loopback, outside the range that outgoing connections take theirs from."""
    found: list[int] = []
    for port in random.sample(range(20000, 30000), 1000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise BuilderError("There is no free port between 20000 and 30000 on this machine")


class Door:
    """Listens on `port` of loopback and joins each connection with `target`, while the `with` block lasts.

    Errors: BuilderError when the port has been taken meanwhile.
    """

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._closed = threading.Event()
        try:
            self._listener = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise BuilderError(f"Port {port} of loopback was taken meanwhile", hint="Bake again") from error
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closed.set()
        for thread in list(self._threads):
            thread.join(timeout=2)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            ready, _, _ = select.select([self._listener], [], [], _POLL_SECONDS)
            if ready:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            search = _Search(self._target, client)
            machine = search.run(self._closed)
            if machine is not None:
                with machine:
                    machine.sendall(search.said)
                    _join(client, machine, self._closed)


class _Search:
    """The attempts to reach the machine for one client; `said` is what the client has sent meanwhile."""

    def __init__(self, target: int, client: socket.socket) -> None:
        self.said = b""
        self._target = target
        self._client = client
        self._attempts: list[socket.socket] = []
        self._asked = 0.0
        # Once it has refused a connection the machine has a network, and one that it does not refuse counts.
        self._refused = False

    def run(self, closed: threading.Event) -> socket.socket | None:
        """Return the first connection on which the machine speaks; None when the client has gone."""
        try:
            while not closed.is_set():
                self._ask()
                ready, _, _ = select.select([self._client, *self._attempts], [], [], _POLL_SECONDS)
                if self._client in ready and not self._listen():
                    return None
                for attempt in [each for each in self._attempts if each in ready]:
                    if _speaks(attempt):
                        self._attempts.remove(attempt)
                        return attempt
                    self._drop(attempt)
                    self._refused = True
                    closed.wait(_POLL_SECONDS)
            return None
        finally:
            for attempt in list(self._attempts):
                self._drop(attempt)

    def _ask(self) -> None:
        if self._attempts and (self._refused or time.monotonic() - self._asked < _ASK_AGAIN_SECONDS):
            return
        if len(self._attempts) == _MOST_ATTEMPTS:
            self._drop(self._attempts[0])
        self._asked = time.monotonic()
        try:
            self._attempts.append(socket.create_connection(("127.0.0.1", self._target), timeout=5))
        except ConnectionResetError:
            self._refused = True  # so quick that `connect` has seen it
        except OSError:
            pass  # QEMU is not there yet: the next turn asks again

    def _listen(self) -> bool:
        data = self._client.recv(_CHUNK)
        self.said += data
        return bool(data)

    def _drop(self, attempt: socket.socket) -> None:
        self._attempts.remove(attempt)
        attempt.close()


def _speaks(attempt: socket.socket) -> bool:
    try:
        return bool(attempt.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _join(one: socket.socket, other: socket.socket, closed: threading.Event) -> None:
    """Pass everything on in both directions until either side ends."""
    partners = {one: other, other: one}
    while not closed.is_set():
        ready, _, _ = select.select([one, other], [], [], _POLL_SECONDS)
        for side in ready:
            data = side.recv(_CHUNK)
            if not data:
                return
            partners[side].sendall(data)

"""Packer's connection is held, and joined with the machine as soon as that speaks."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest

from builder import packer_door
from builder.errors import BuilderError
from builder.packer_door import Door, free_ports
from tests.waiting import wait_until

BANNER = b"SSH-2.0-OpenSSH_9.2p1\r\n"
ASK_AGAIN_SECONDS = 0.2


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the door's times are a fifth of what they are for a real machine."""
    monkeypatch.setattr(packer_door, "_POLL_SECONDS", packer_door._POLL_SECONDS / 5)
    monkeypatch.setattr(packer_door, "_ASK_AGAIN_SECONDS", ASK_AGAIN_SECONDS)


class Machine:
    """Stands for QEMU's forwarded port: `behave` is what it does with the next connections."""

    def __init__(self, port: int) -> None:
        self.behave: Callable[[socket.socket], None] = self.silent
        self.held: list[socket.socket] = []
        self.accepted = 0
        self._done = Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(0.02)
        self._thread = Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.accepted += 1
            self.behave(connection)

    def silent(self, connection: socket.socket) -> None:
        """Accept and say nothing, as QEMU does before the guest has a network."""
        self.held.append(connection)

    def refuse(self, connection: socket.socket) -> None:
        """Reset, as QEMU does when the guest has a network and no sshd."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def talk(self, connection: socket.socket) -> None:
        """Greet as sshd does, and repeat what is said."""
        self.held.append(connection)
        connection.sendall(BANNER)
        Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with suppress(OSError):  # the door has closed it
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        for each in (self._listener, *self.held):
            each.close()


@contextmanager
def door(behave: str = "silent") -> Iterator[tuple[Machine, socket.socket]]:
    """Give a machine and Packer's connection to the door in front of it."""
    port, target = free_ports(2)
    machine = Machine(target)
    machine.behave = getattr(machine, behave)
    try:
        with Door(port, target), socket.create_connection(("127.0.0.1", port)) as packer:
            packer.settimeout(10)
            yield machine, packer
    finally:
        machine.close()


def receive(packer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = packer.recv(count - len(data))
        assert more, "the door closed the connection"
        data += more
    return data


def test_both_sides_are_joined_and_nothing_is_lost() -> None:
    with door("talk") as (_machine, packer):
        packer.sendall(b"SSH-2.0-Go\r\n")
        assert receive(packer, len(BANNER)) == BANNER
        assert receive(packer, 12) == b"SSH-2.0-Go\r\n"
        large = bytes(range(256)) * 4096
        Thread(target=packer.sendall, args=(large,)).start()
        assert receive(packer, len(large)) == large


def test_machine_without_a_network_is_asked_again_until_it_speaks() -> None:
    with door() as (machine, packer):
        packer.sendall(b"SSH-2.0-Go\r\n")
        wait_until(lambda: machine.accepted >= 2)
        machine.behave = machine.talk
        started = time.monotonic()
        assert receive(packer, len(BANNER)) == BANNER
        assert time.monotonic() - started < 3


def test_refusals_are_waited_out_and_then_sshd_is_seen_at_once() -> None:
    with door("refuse") as (machine, packer):
        wait_until(lambda: machine.accepted >= 3)
        machine.behave = machine.talk
        started = time.monotonic()
        assert receive(packer, len(BANNER)) == BANNER
        assert time.monotonic() - started < 2


def test_slow_sshd_is_not_flooded_once_it_listens() -> None:
    with door("refuse") as (machine, _packer):
        wait_until(lambda: machine.accepted >= 2)
        machine.behave = machine.silent
        wait_until(lambda: bool(machine.held))
        before = machine.accepted
        time.sleep(5 * ASK_AGAIN_SECONDS)
        assert machine.accepted == before


def test_reset_while_connecting_is_a_refusal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.create_connection
    resets = 2

    def reset_first(address: tuple[str, int], timeout: float | None = None) -> socket.socket:
        nonlocal resets
        if timeout is not None and resets:  # the door's own; Packer's has no time limit
            resets -= 1
            raise ConnectionResetError
        return connect(address, timeout)

    monkeypatch.setattr(socket, "create_connection", reset_first)
    with door() as (machine, _packer):
        wait_until(lambda: bool(machine.held))
        time.sleep(5 * ASK_AGAIN_SECONDS)
        assert machine.accepted == 1


def test_packer_that_gives_up_is_let_go_and_may_come_again() -> None:
    port, target = free_ports(2)
    machine = Machine(target)
    try:
        with Door(port, target):
            socket.create_connection(("127.0.0.1", port)).close()
            machine.behave = machine.talk
            with socket.create_connection(("127.0.0.1", port)) as packer:
                packer.settimeout(10)
                assert receive(packer, len(BANNER)) == BANNER
    finally:
        machine.close()


def test_door_waits_for_a_machine_that_is_not_there_yet() -> None:
    port, target = free_ports(2)
    with Door(port, target), socket.create_connection(("127.0.0.1", port)) as packer:
        packer.settimeout(10)
        time.sleep(0.2)
        machine = Machine(target)
        machine.behave = machine.talk
        try:
            assert receive(packer, len(BANNER)) == BANNER
        finally:
            machine.close()


def test_closed_door_ends_the_connection() -> None:
    port, target = free_ports(2)
    with Door(port, target):
        packer = socket.create_connection(("127.0.0.1", port))
        time.sleep(0.1)
    packer.settimeout(5)
    assert packer.recv(1) == b""
    packer.close()


def test_port_that_was_taken_is_a_clear_error() -> None:
    port, target = free_ports(2)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(BuilderError, match=f"Port {port} of loopback was taken"),
    ):
        Door(port, target)

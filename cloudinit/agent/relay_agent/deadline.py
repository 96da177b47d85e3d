"""Bound a whole exchange with a server: a timeout is for one read, and a server that drips never meets it."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Callable, Optional, Type


class Deadline:
    """Breaks the connection that `find` names when the `with` block lasts longer than `seconds`."""

    def __init__(self, seconds: float, find: Callable[[], Optional[socket.socket]]) -> None:
        self._seconds, self._find = seconds, find
        self._ended = threading.Event()

    def __enter__(self) -> Deadline:
        threading.Thread(target=self._watch, name="deadline", daemon=True).start()
        return self

    def __exit__(
        self,
        _kind: Optional[Type[BaseException]],
        _error: Optional[BaseException],
        _trace: Optional[TracebackType],
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        wait = self._seconds
        while not self._ended.wait(wait):
            # Again and again: while one address after the other is tried there is nothing to break.
            wait = 0.5
            connection = self._find()
            if connection is not None:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

"""Look at the queue from time to time, in a thread: a long queue takes seconds to read."""

from __future__ import annotations

import threading

from relay_agent import loops, mailqueue
from relay_agent.board import Board
from relay_agent.follow import Follower
from relay_agent.logs import Log
from relay_agent.postfix import Postfix
from relay_agent.trouble import Trouble

_EVERY_SECONDS = 15.0
# Reading the queue may take one twentieth of the time at most.
_SHARE = 20.0


class QueueWatcher:
    """Puts the state of the queue on the board; starts the reader of the mail log when Postfix runs."""

    def __init__(self, postfix: Postfix, board: Board, follower: Follower, log: Log) -> None:
        self._postfix, self._board, self._follower, self._log = postfix, board, follower, log
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="queue", daemon=True)
        self._said = ""
        self._is_first = True

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def _run(self) -> None:
        loops.keep_going("queue", self._watch, stopping=self._stopping, log=self._log)

    def _watch(self) -> None:
        while not self._postfix.is_running() and not self._stopping.wait(1):
            # Until then there is nothing to read, and a boot has better things to do.
            continue
        while not self._stopping.is_set():
            is_first, self._is_first = self._is_first, False
            if is_first:
                self._follower.start()
            self._stopping.wait(self.look(is_first=is_first))

    def look(self, *, is_first: bool) -> float:
        """Read the queue once; return how many seconds to wait before the next time."""
        board = self._board
        board.log_lines, board.log_restarts = self._follower.lines, self._follower.restarts
        try:
            summary = mailqueue.summarize(mailqueue.read(self._postfix))
        except Trouble as trouble:
            # Postfix takes its time at boot; the queue is looked at again soon.
            if trouble.message != self._said and not is_first:
                self._log.warning("the queue cannot be read", **trouble.as_json())
                self._said = trouble.message
            return _EVERY_SECONDS
        self._said = ""
        board.set_queue(summary)
        return max(_EVERY_SECONDS, _SHARE * summary.read_seconds)

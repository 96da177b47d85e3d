"""Start the agent: what its unit runs."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from types import TracebackType
from typing import Any, Callable

from relay_agent import __version__
from relay_agent import settings as config
from relay_agent.agent import Agent, World
from relay_agent.board import Board
from relay_agent.door import Door
from relay_agent.follow import Follower
from relay_agent.health import Health
from relay_agent.logs import Log
from relay_agent.maillog import Event
from relay_agent.maps import make_private_folder
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.secret import Library
from relay_agent.traffic import Traffic
from relay_agent.trouble import Trouble, unexpected
from relay_agent.watch import QueueWatcher


def main(places: Places | None = None) -> int:
    """Run until SIGTERM."""
    places = places or Places()
    log = Log()
    _log_crashes(log)
    # Takes seconds under emulation and needs nothing: it comes first.
    library = Library()
    library.start()
    make_private_folder(places.run_dir)
    places.been_ready.parent.mkdir(parents=True, exist_ok=True)
    log.info("start", version=__version__)
    board = Board(places, Traffic(), version=__version__)
    postfix = Postfix(places)
    agent = Agent(places, board, Door(places, postfix, log), log, World(places, library).connect)
    # Before there is a credential, so that the first message already goes at the rate.
    pace = _start_rate(places, library, postfix, log, board)
    follower = _serve(places, board, postfix, agent, log, pace)
    agent.run()
    follower.stop()
    return 0


def _start_rate(
    places: Places, library: Library, postfix: Postfix, log: Log, board: Board
) -> Callable[[Event, float], None] | None:
    """Start what keeps the account's rate, in an image with a quota; only there is it imported (asyncio)."""
    try:
        has_quota = "quota" in json.loads(places.agent_json.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return None
    if not has_quota:
        return None
    from relay_agent import rate

    return rate.start(places, library, postfix, log, lambda values: board.set(rate=values))


def _serve(
    places: Places,
    board: Board,
    postfix: Postfix,
    agent: Agent,
    log: Log,
    pace: Callable[[Event, float], None] | None,
) -> Follower:
    """Start what runs beside the loop: health, the mail log, the queue."""
    Health(board, log).start(_health_port(places))

    def deliver(event: Event, at: float) -> None:
        if board.traffic.add(event, at):
            agent.login_refused()
        if pace is not None:
            pace(event, at)

    follower = Follower(places, log, deliver)
    watcher = QueueWatcher(postfix, board, follower, log)
    watcher.start()

    def stop(_number: int, _frame: object) -> None:
        agent.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return follower


def _health_port(places: Places) -> int:
    try:
        return config.load(places).health_port
    except (Trouble, OSError):
        return 8025


def _log_crashes(log: Log) -> None:
    """Send what would be a traceback on stderr through the guard; silence the libraries."""
    logging.getLogger().addHandler(logging.NullHandler())

    def crashed(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        found = (error or kind()).with_traceback(trace)
        log.error("crash", **unexpected("agent", found).as_json())

    def crashed_in_thread(args: Any) -> None:
        crashed(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = crashed
    threading.excepthook = crashed_in_thread
    sys.unraisablehook = crashed_in_thread


if __name__ == "__main__":
    sys.exit(main())

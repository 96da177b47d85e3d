"""Health over HTTP, for load balancers and Prometheus: /livez, /readyz, /metrics."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import sys
import threading
import time
from typing import Any, Callable

from relay_agent import logs, loops, metrics
from relay_agent.board import Board
from relay_agent.logs import Log

# The loop comes by every two seconds; a login that a provider drags out takes a minute.
_ALIVE_SECONDS = 180.0
# For a whole connection, however often a byte comes: an answer takes milliseconds.
_CLIENT_SECONDS = 5.0
# When all places are taken, a client that has had this long makes room for the next.
_LEAST_SECONDS = 1.0
_MOST_AT_ONCE = 16


class Server(http.server.ThreadingHTTPServer):
    """Answers a few clients at once, each for a few seconds at most; the port is open to anybody by default.

    More than there are places for are turned away, unless a slow one can make room.
    """

    daemon_threads = True
    allow_reuse_address = True
    # Beyond it the kernel drops a client's first packet, and the client tries again after a second.
    request_queue_size = 2 * _MOST_AT_ONCE

    def __init__(self, address: tuple[str, int], board: Board, log: Log | None = None) -> None:
        self._places = threading.BoundedSemaphore(_MOST_AT_ONCE)
        self._log = log
        # When each client that is served came; the accepting thread cuts the late ones off.
        self._since: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self.client_seconds, self.least_seconds = _CLIENT_SECONDS, _LEAST_SECONDS
        self.board = board
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Bind without asking DNS for our name, as HTTPServer would: DNS may not be up yet."""
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "relay", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread, or hang up when too many are served already."""
        if not self._places.acquire(blocking=False) and not self._make_room():
            self.shutdown_request(request)
            return
        with self._lock:
            self._since[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            # No more threads: without this, one place less for ever.
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one client and free its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def service_actions(self) -> None:
        """Cut off who is late; the loop comes by every half second.

        The handler's own timeout is for each read, and a client that drips bytes never meets it.
        """
        self._cut(time.monotonic() - self.client_seconds)

    def _make_room(self) -> bool:
        """Cut off the client that has been here longest, and wait until its place is free."""
        with self._lock:
            oldest = min(self._since.values(), default=time.monotonic())
        if oldest > time.monotonic() - self.least_seconds:
            return False
        self._cut(oldest)
        return self._places.acquire(timeout=1)

    def _cut(self, came_before: float) -> None:
        with self._lock:
            late = [client for client, since in self._since.items() if since <= came_before]
            for client in late:
                del self._since[client]
        for client in late:
            # Its thread, which reads from it or writes to it, sees the end and closes it.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _leave(self, request: socket.socket) -> None:
        with self._lock:
            self._since.pop(request, None)
        self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Leave a client that hung up alone; anything else is a bug and is logged, not as a traceback."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, OSError):
            trouble = loops.failed("health", error)
            if self._log is not None:
                self._log.error("a question to the health port failed", **trouble.as_json())


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET and HEAD of three paths."""

    server: Server
    timeout = _CLIENT_SECONDS
    server_version = "relay"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one question."""
        answers: dict[str, Callable[[], tuple[int, str, str]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
        }
        answer = answers.get(self.path.partition("?")[0])
        status, kind, body = answer() if answer else (404, "text/plain; charset=utf-8", "not found\n")
        raw = logs.clean(body).encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    do_HEAD = do_GET

    def _livez(self) -> tuple[int, str, str]:
        silent = self.server.board.seconds_since_beat()
        alive = silent < _ALIVE_SECONDS
        body = {"alive": alive, "seconds_since_last_round": round(silent, 1)}
        return (200 if alive else 503), "application/json", json.dumps(body) + "\n"

    def _readyz(self) -> tuple[int, str, str]:
        body = self.server.board.readiness()
        # Degraded still accepts and keeps mail, which is what a load balancer asks.
        status = 200 if body["accepting"] else 503
        return status, "application/json", json.dumps(body) + "\n"

    def _metrics(self) -> tuple[int, str, str]:
        return 200, metrics.CONTENT_TYPE, metrics.render(self.server.board)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a load balancer asks every few seconds."""


class Health:
    """Runs the server in a thread; a port that is taken is tried again, the relay works without it."""

    def __init__(self, board: Board, log: Log, *, host: str = "0.0.0.0") -> None:  # noqa: S104
        # All addresses: the firewall of the image lets only the management networks through.
        self._board, self._log, self._host = board, log, host
        self._stopping = threading.Event()
        self.port: int | None = None
        self._server: Server | None = None

    def start(self, port: int) -> None:
        """Begin to serve."""
        threading.Thread(target=self._run, args=(port,), name="health", daemon=True).start()

    def stop(self) -> None:
        """Serve no more."""
        self._stopping.set()
        if self._server is not None:
            self._server.shutdown()

    def _run(self, port: int) -> None:
        loops.keep_going("health", lambda: self._serve(port), stopping=self._stopping, log=self._log)

    def _serve(self, port: int) -> None:
        while not self._stopping.is_set():
            try:
                server = Server((self._host, port), self._board, self._log)
            except OSError as error:
                self._log.warning("the health port cannot be opened", port=port, error=str(error))
                self._stopping.wait(10)
                continue
            with server:
                self._server, self.port = server, server.server_port
                server.serve_forever()

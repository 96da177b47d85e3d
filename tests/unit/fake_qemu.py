"""A program that takes QEMU's arguments and does what a test can see: QMP, the health port, the console."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socketserver
import sys
import threading
from pathlib import Path

ARGUMENTS = sys.argv[2:]
ORDERS = json.loads(Path(sys.argv[1]).read_text())
STATUS = {"running": "running"}


def _after(flag: str) -> str:
    return ARGUMENTS[ARGUMENTS.index(flag) + 1]


class _Qmp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self._say({"QMP": {"version": {}, "capabilities": []}})
        for line in self.rfile:
            asked = json.loads(line)
            self._say({"event": "RTC_CHANGE", "data": {}})
            if asked["execute"] == "refuse-this":
                self._say({"error": {"class": "GenericError", "desc": "not today"}})
            else:
                self._say({"return": self._answer(asked["execute"])})

    def _answer(self, command: str) -> dict[str, str]:
        if command == "query-status":
            return {"status": ORDERS.get("status", "running")}
        if command == "system_powerdown" and not ORDERS.get("ignores_power_button"):
            threading.Timer(0.2, os._exit, [0]).start()
        return {}

    def _say(self, answer: object) -> None:
        self.wfile.write(json.dumps(answer).encode() + b"\n")


class _Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = ORDERS.get("readyz", "ready").encode()
        self.send_response(ORDERS.get("readyz_status", 200))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _serve(qmp: str, port: int) -> None:
    Path(qmp).unlink(missing_ok=True)
    server = socketserver.ThreadingUnixStreamServer(qmp, _Qmp)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    http.server.ThreadingHTTPServer.allow_reuse_address = True
    health = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Health)
    threading.Thread(target=health.serve_forever, daemon=True).start()


def main() -> None:
    """Behave like QEMU as far as `ORDERS` says."""
    console = re.search(r"path=([^,]+)", _after("-chardev"))
    assert console
    with Path(console[1]).open("a") as stream:
        stream.write(ORDERS.get("console", "Linux version 6\n"))
    if "dies" in ORDERS:
        forward = re.search(r"hostfwd=(tcp:127.0.0.1:\d+-:25)", _after("-netdev"))
        sys.exit(ORDERS["dies"].format(forward=forward[1] if forward else ""))
    port = re.search(r"hostfwd=tcp:127.0.0.1:(\d+)-:8025", _after("-netdev"))
    assert port
    if "-daemonize" in ARGUMENTS:
        if os.fork():
            os._exit(0) if _wait_for(_after("-pidfile")) else os._exit(1)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream_number in range(3):
            os.dup2(null, stream_number)
    _serve(_after("-qmp").removeprefix("unix:").partition(",")[0], int(port[1]))
    if "-daemonize" in ARGUMENTS:
        Path(_after("-pidfile")).write_text(f"{os.getpid()}\n")
    if "dies_later" in ORDERS:
        threading.Timer(ORDERS["dies_later"], os._exit, [1]).start()
    signal.pause()


def _wait_for(path: str) -> bool:
    import time

    for _ in range(100):
        if Path(path).exists() and Path(path).read_text():
            return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":
    main()

"""Follow the mail log in the journal, across restarts of journald, of journalctl and of the agent."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import Any, Callable, Sequence

from relay_agent import loops, programs
from relay_agent.backoff import Backoff
from relay_agent.logs import Log
from relay_agent.maillog import Event, parse
from relay_agent.maps import write_whole
from relay_agent.places import Places
from relay_agent.trouble import Trouble

# The facility `mail`, whatever unit Postfix runs in (`postfix@-.service` up to Ubuntu 24.04). Minimal images
# have no /var/log/mail.log.
FACILITY = "SYSLOG_FACILITY=2"
_COMMAND = (
    "journalctl",
    "--quiet",
    "--follow",
    "--all",
    "--output=json",
    "--output-fields=MESSAGE,SYSLOG_IDENTIFIER",
)
_SAVE_SECONDS = 5.0
# After a longer absence reading everything again would cost more than the counts are worth.
_OLDEST_CURSOR_SECONDS = 3600.0
# journalctl that ends sooner than this without a line did not like the cursor.
_AT_ONCE_SECONDS = 5.0


def read_entry(line: bytes) -> tuple[str, str, str, float] | None:
    """Take program, message, cursor and time (seconds) out of one line of `journalctl -o json`.

    A message that is not UTF-8 comes as a list of bytes (systemd.io/JOURNAL_EXPORT_FORMATS).
    """
    try:
        entry = json.loads(line)
        message = entry.get("MESSAGE")
        if isinstance(message, list):
            message = bytes(message).decode("utf-8", "replace")
        moment = int(entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6
    except (ValueError, TypeError, AttributeError):
        return None
    if not isinstance(message, str):
        return None
    return str(entry.get("SYSLOG_IDENTIFIER", "")), message, str(entry.get("__CURSOR", "")), moment


class Follower:
    """Reads the mail log in a thread and hands each event to `deliver`."""

    def __init__(
        self,
        places: Places,
        log: Log,
        deliver: Callable[[Event, float], None],
        *,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self._places = places
        self._log = log
        self._deliver = deliver
        self._command = list(command)
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="mail-log", daemon=True)
        self._cursor = ""
        # The first time: this boot's log, there is not much of it yet.
        self._without_cursor = ["--boot", "--lines=1000"]
        self._saved_at = 0.0
        self._said = ""
        self.lines = 0
        self.restarts = 0

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End the reader, and save how far it came."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
        if self._thread.ident is not None:
            self._thread.join(5)
        self._save(force=True)

    def _run(self) -> None:
        loops.keep_going("mail-log", self._follow, stopping=self._stopping, log=self._log)

    def _follow(self) -> None:
        backoff = Backoff(base_seconds=1, cap_seconds=30)
        while not self._stopping.is_set():
            before, started = self.lines, time.monotonic()
            try:
                self._read(self._start())
            except Trouble as trouble:
                if trouble.message != self._said:
                    self._log.warning("the mail log cannot be read", **trouble.as_json())
                    self._said = trouble.message
            if self._stopping.is_set():
                return
            if self.lines > before:
                backoff.reset()
            elif time.monotonic() - started < _AT_ONCE_SECONDS:
                # The journal was rotated or replaced: go on from now, older lines were mostly counted.
                self._forget_cursor()
            self.restarts += 1
            self._stopping.wait(backoff.next_seconds())

    def _start(self) -> subprocess.Popen[bytes]:
        cursor = self._cursor or self._load()
        where = ["--no-tail", f"--after-cursor={cursor}"] if cursor else self._without_cursor
        self._process = programs.start([*self._command, *where, FACILITY])
        return self._process

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - programs.start opens it
        try:
            for line in process.stdout:
                self._take(line)
                if self._stopping.is_set():
                    return
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()

    def _take(self, line: bytes) -> None:
        entry = read_entry(line)
        if entry is None:
            return
        program, message, cursor, moment = entry
        self.lines += 1
        self._cursor = cursor or self._cursor
        self._save()
        event = parse(program, message)
        if event is not None:
            self._deliver(event, moment)

    def _load(self) -> str:
        try:
            saved: Any = json.loads(self._places.log_cursor.read_text(encoding="utf-8"))
            fresh = time.time() - float(saved["saved_at"]) < _OLDEST_CURSOR_SECONDS
            return str(saved["cursor"]) if fresh else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _save(self, *, force: bool = False) -> None:
        if not self._cursor or not (force or time.monotonic() - self._saved_at > _SAVE_SECONDS):
            return
        self._saved_at = time.monotonic()
        text = json.dumps({"cursor": self._cursor, "saved_at": time.time()})
        try:
            write_whole(self._places.log_cursor, text, mode=0o600)
        except OSError as error:
            # A full disk must not stop the counting.
            self._log.warning("the place in the mail log cannot be saved", error=str(error))

    def _forget_cursor(self) -> None:
        self._cursor, self._without_cursor = "", ["--lines=0"]
        try:
            self._places.log_cursor.unlink(missing_ok=True)
        except OSError as error:
            self._log.warning("the place in the mail log cannot be forgotten", error=str(error))

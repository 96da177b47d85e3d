"""Log lines as JSON on stdout, for the journal; every line passes a guard that takes out known secrets."""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from collections import OrderedDict
from typing import Any, TextIO
from urllib.parse import quote

HIDDEN = "[hidden]"
# Priorities of syslog(3), as `sd-daemon(3)` reads them from the start of a line.
_PRIORITY = {"error": 3, "warning": 4, "info": 6}
# Shorter values would blank out ordinary words; a provider's password is never that short.
_SHORTEST = 4
_MOST_KEPT, _MOST_PASSING = 10_000, 256

_lock = threading.Lock()
_secrets: OrderedDict[str, None] = OrderedDict()
_passing: OrderedDict[str, None] = OrderedDict()


def hide(value: str, *, is_passing: bool = False) -> None:
    """Remember a secret in every spelling that could turn up in a message: `clean` takes it out.

    Those that come and go, as the metadata service's tokens every minute, must not push a password out.
    """
    if len(value) < _SHORTEST:
        return
    raw = value.encode("utf-8", "surrogatepass")
    forms = [value, quote(raw, safe=""), repr(value)[1:-1]]
    forms += [json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)]
    forms += [base64.b64encode(raw).decode().rstrip("="), raw.hex()]
    kept, most = (_passing, _MOST_PASSING) if is_passing else (_secrets, _MOST_KEPT)
    with _lock:
        for form in forms:
            kept[form] = None
            kept.move_to_end(form)
        while len(kept) > most:
            kept.popitem(last=False)


def hide_login(username: str, password: str) -> None:
    """Remember a password, and the form in which SASL PLAIN sends it."""
    hide(password)
    hide("\0" + username + "\0" + password)


def clean(text: str) -> str:
    """Return the text without any secret that `hide` was told of."""
    with _lock:
        known = sorted((*_secrets, *_passing), key=len, reverse=True)
    for secret in known:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def clean_json(value: Any) -> str:
    """Write a document as one line of JSON, without any known secret."""
    line = clean(json.dumps(value, default=str, ensure_ascii=False, separators=(", ", ": ")))
    # What no encoding carries must not keep the rest of the line from being written.
    return line.encode("utf-8", "replace").decode("utf-8")


class Log:
    """Writes `{"event": …, …}` lines; an event is a short sentence, the fields are its data."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        # systemd sets it when stdout is the journal; then `<6>` at the start of a line is its priority.
        self._to_journal = "JOURNAL_STREAM" in os.environ and stream is None
        self._write_lock = threading.Lock()

    def info(self, event: str, **fields: Any) -> None:
        """Say that something happened as it should."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Say that something did not work and is tried again."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Say that something needs a person."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        line = clean_json({"level": level, "event": event, **fields}).replace("\n", " ")
        prefix = f"<{_PRIORITY[level]}>" if self._to_journal else ""
        with self._write_lock:
            try:
                self._stream.write(prefix + line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                # The journal is gone: there is nobody to tell, and the relay goes on.
                return

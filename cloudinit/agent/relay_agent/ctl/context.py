"""What the commands of `relayctl` share: where things are, how output looks, what the agent wrote."""

from __future__ import annotations

import json
import time
from typing import Any, Callable, Sequence, TextIO

from relay_agent import logs, programs
from relay_agent import settings as config
from relay_agent.follow import FACILITY, read_entry
from relay_agent.maillog import Event, parse
from relay_agent.maps import read_sasl
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.settings import Settings
from relay_agent.trouble import Trouble

# The agent writes its status every five seconds.
# As /livez has it: while a provider does not answer, a round takes a minute or two.
_STALE_SECONDS = 180.0


class Out:
    """Writes to the terminal; nothing that was recognised as a secret gets through."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, text: str = "") -> None:
        """Write one line."""
        self._stream.write(logs.clean(text) + "\n")
        self._stream.flush()

    def json(self, value: Any) -> None:
        """Write one JSON document."""
        self.line(json.dumps(value, indent=2, default=str, ensure_ascii=False))

    def fields(self, fields: Sequence[tuple[str, str]]) -> None:
        """Write names and values in two columns; a name that is empty goes on with the one above."""
        width = max((len(name) for name, _ in fields), default=0)
        for name, value in fields:
            self.line(f"{name.ljust(width)}  {value}")


class Context:
    """The relay as a command sees it; tests give another root, input and clock."""

    def __init__(
        self,
        places: Places,
        out: Out,
        *,
        postfix: Postfix | None = None,
        ask: Callable[[str], str] = input,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.places, self.out = places, out
        self.postfix = postfix or Postfix(places)
        self.ask, self.sleep = ask, sleep
        self._hide_credentials()

    def _hide_credentials(self) -> None:
        """Know the passwords in use, so that no reply or log line can show them."""
        try:
            for credential in read_sasl(self.places.sasl_map).values():
                logs.hide_login(credential.username, credential.password)
        except (OSError, ValueError):
            return

    def status(self) -> dict[str, Any]:
        """Return what the agent wrote. Errors: Trouble `agent-silent` when it wrote nothing lately."""
        path = self.places.status_json
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise _silent(f"The agent has not written `{path}`") from None
        except ValueError:
            raise _silent(f"`{path}` is not JSON") from None
        age = time.time() - float(value.get("updated_at", 0))
        if age > _STALE_SECONDS:
            raise _silent(f"The agent last wrote `{path}` {age:.0f} s ago")
        return dict(value)

    def settings(self) -> Settings:
        """Return the settings in force. Errors: Trouble `config-…`."""
        return config.load(self.places)

    def parameter(self, name: str) -> str:
        """Return one parameter of Postfix, expanded."""
        return programs.run(self.postfix.command("postconf", "-xh", name)).stdout.strip()

    def recent_events(self, *, since: str = "-1h", most: int = 20000) -> list[Event]:
        """Return what the mail log says of late."""
        command = ["journalctl", "--quiet", "--all", "--output=json", f"--since={since}", f"--lines={most}"]
        ended = programs.run([*command, "--output-fields=MESSAGE,SYSLOG_IDENTIFIER", FACILITY])
        events = []
        for line in ended.stdout.splitlines():
            entry = read_entry(line.encode("utf-8"))
            event = parse(entry[0], entry[1]) if entry else None
            if event is not None:
                events.append(event)
        return events


def _silent(message: str) -> Trouble:
    return Trouble(
        "agent-silent",
        message,
        hint="`systemctl status relay-agent` says why; `relayctl doctor` works without it",
    )


def span(seconds: float) -> str:
    """Write a duration as people say it: `4 s`, `3 min`, `5 h`, `12 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "min" and seconds >= 60):
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def moment(seconds: float) -> str:
    """Write a moment, given in seconds since the epoch."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

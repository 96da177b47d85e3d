"""The DKIM signer in the sandbox of a local relay, with keys that exist there only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from builder.errors import BuilderError

_CONF = "/run/relay-lib/dkim/opendkim.conf"
_SOCKET = "/run/relay-dkim/milter/socket"
_PID = "/run/relay-dkim/milter/pid"
_KEYS = "/run/relay-dkim/keys"
_START_SECONDS = 10
# proc_net(5): 00010000 is a socket that listens. The file says nothing: a killed signer leaves it behind.
_LISTENS = f"! grep -q ' 00010000 .* {_SOCKET}$' /proc/net/unix || echo yes"
_FOLDERS = f"""\
command -v opendkim >/dev/null || exit 3
install -d -m 755 /run/relay-dkim
install -d -m 700 -o opendkim -g opendkim {_KEYS}
install -d -m 750 -o opendkim -g postfix /run/relay-dkim/milter
"""
# As the agent does it: readable to the signer alone, put in place by rename.
_NEW_KEY = """\
umask 077
openssl genrsa -out "$1.new" 2048 2>/dev/null
chown opendkim:opendkim "$1.new"
mv "$1.new" "$1"
openssl pkey -in "$1" -pubout
"""


class Signer:
    """OpenDKIM for a rendered image's `agent.json`; `run` runs a command in the sandbox."""

    def __init__(self, run: Callable[[Sequence[str]], str], agent_json: str) -> None:
        plan: Mapping[str, Any] = json.loads(agent_json)["dkim"]
        self._run = run
        self._files: dict[str, str] = {key["domain"]: key["file"] for key in plan["keys"]}
        self.public_keys: dict[str, str] = {}
        """The public key of each domain, in the base64 form of a DNS record."""

    def prepare(self) -> None:
        """Make folders and keys. Errors: BuilderError when OpenDKIM is not installed."""
        try:
            self._run(["sh", "-c", _FOLDERS])
        except BuilderError as error:
            raise BuilderError(
                "OpenDKIM is needed to try the signing of mail", hint="Run `apt-get install opendkim`"
            ) from error
        for domain in self._files:
            self.new_key(domain)

    def new_key(self, domain: str) -> None:
        """Replace a domain's key; the signer reads it when it starts or reloads."""
        pem = self._run(["sh", "-ec", _NEW_KEY, "key", self._files[domain]])
        self.public_keys[domain] = "".join(line for line in pem.splitlines() if "-----" not in line)

    def break_key(self, domain: str) -> None:
        """Put something in the key's place that is none."""
        self._run(["sh", "-c", f"echo nonsense >{self._files[domain]}"])

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._run(["opendkim", "-x", _CONF, "-u", "opendkim", "-P", _PID])
        self._wait("yes", "The DKIM signer does not listen")

    def stop(self) -> None:
        """Kill it, as a crash would; its socket stays behind."""
        self._run(["sh", "-c", f"kill -9 $(cat {_PID}) && rm -f {_PID}"])
        self._wait("", "The DKIM signer does not end")

    def _wait(self, wanted: str, problem: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self._run(["sh", "-c", _LISTENS]).strip() != wanted:
            if time.monotonic() > deadline:
                raise BuilderError(problem)
            time.sleep(0.05)

    def reload(self) -> None:
        """Let it read its files again, as `systemctl reload` does."""
        self._run(["sh", "-c", f"kill -USR1 $(cat {_PID})"])

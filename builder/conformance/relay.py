"""The relay that is tried: what the suite can do to it, whether a process here or a booted image."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from builder.conformance.signer import Signer
from builder.errors import BuilderError
from builder.render.routing import SASL_MAP

T = TypeVar("T")

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Queued:
    """One message in the queue, as `postqueue -j` shows it."""

    queue_id: str
    queue_name: str
    sender: str
    recipients: tuple[str, ...]
    reasons: tuple[str, ...]


class Relay(ABC):
    """A Postfix with the rendered configuration; `abilities` are what cases may ask for.

    `xclient`: a client may say which address it comes from. `stop`: daemons may be killed and started.
    `disk`: the queue's file system may be filled. `settings`: parameters may be changed. `map`: nobody else
    writes the password map. `submission`: there is a port for clients that log in. `reports`: reports of
    non-delivery are kept on the relay. `null-refused`: clients may not send with a null sender. `starttls`:
    the provider's port begins in the clear. `signer`: it signs with DKIM, and its signer may be stopped.
    """

    name: str
    abilities: frozenset[str]
    smtp_address: tuple[str, int]
    submission_address: tuple[str, int]
    patience: float = 1.0
    """By how much it is slower than a process on this machine: every limit is multiplied with it."""
    sender: str = "app@example.com"
    recipient_domain: str = "example.net"
    """A sender, and a domain of recipients, that the relay accepts and sends to its first provider."""
    reports: str = "/var/spool/relay-dsn"
    """Where reports of non-delivery are kept."""

    signer: Signer | None = None
    """What signs with DKIM, where it may be stopped and given other keys."""

    @abstractmethod
    def run(self, argv: Sequence[str], *, check: bool = True, timeout_seconds: float = 60) -> str:
        """Run a command as root on the relay and return its output. Errors: BuilderError."""

    @abstractmethod
    def write_file(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Put a file in place on the relay."""

    @abstractmethod
    def remove_file(self, path: str) -> None:
        """Remove a file on the relay; it need not be there."""

    @abstractmethod
    def start_postfix(self) -> None:
        """Start Postfix after it was killed."""

    def set_credentials(self, logins: Mapping[str, str]) -> None:
        """Write the map as the agent does, and reload: texthash is read once."""
        lines = "".join(f"{key} {login}\n" for key, login in sorted(logins.items()))
        self.write_file(SASL_MAP, lines, mode=0o600)
        self.reload()

    def remove_credentials(self) -> None:
        """Take the map away, as after a boot without a secret."""
        self.remove_file(SASL_MAP)
        self.reload()

    def set_parameters(self, parameters: Mapping[str, str]) -> None:
        """Change main.cf and reload."""
        self.run(["postconf", "-e", *(f"{name}={value}" for name, value in parameters.items())])
        self.reload()

    def reload(self) -> None:
        """Let Postfix read its files again."""
        # Its output goes nowhere: `postfix reload` leaves a queue check behind that keeps a pipe open.
        self.run(["sh", "-c", "postfix reload >/dev/null 2>&1"])

    def flush(self) -> None:
        """Try everything in the queue now."""
        self.run(["postqueue", "-f"])

    def empty_queue(self) -> None:
        """Delete all mail: between two cases, never in one."""
        self.run(["postsuper", "-d", "ALL"])

    def postfix_version(self) -> str:
        """Return the version of Postfix."""
        return self.run(["postconf", "-dh", "mail_version"]).strip()

    def queue(self) -> list[Queued]:
        """List the queue."""
        lines = self.run(["postqueue", "-j"]).splitlines()
        return [_queued(json.loads(line)) for line in lines if line.startswith("{")]

    def wait_until_settled(self, *, timeout_seconds: float = 30) -> list[Queued]:
        """Wait until nothing is being delivered any more and return what waits.

        postqueue misses a message that moves from one queue to the next while it lists them: two looks
        have to agree. One without recipients was delivered while Postfix reloaded; only its file is left,
        until the queue manager looks at it again.
        """
        before: list[Queued] | None = None

        def settled() -> list[Queued] | None:
            nonlocal before
            last, before = before, [item for item in self.queue() if item.recipients]
            is_still = all(item.queue_name in ("deferred", "hold") for item in before)
            return before if is_still and before == last else None

        limit = timeout_seconds * self.patience
        result = wait_until(settled, timeout_seconds=limit, pause_seconds=_POLL_SECONDS * self.patience)
        if result is None:
            names = ", ".join(sorted({item.queue_name for item in self.queue()}))
            raise BuilderError(f"The queue did not settle within {limit:.0f} s: {names}")
        return result


def wait_until(
    ask: Callable[[], T | None], *, timeout_seconds: float, pause_seconds: float = _POLL_SECONDS
) -> T | None:
    """Ask until the answer is not None; None when time is up."""
    deadline = time.monotonic() + timeout_seconds
    while (answer := ask()) is None:
        if time.monotonic() > deadline:
            return None
        time.sleep(pause_seconds)
    return answer


def _queued(raw: Mapping[str, object]) -> Queued:
    recipients = raw.get("recipients")
    entries = recipients if isinstance(recipients, list) else []
    return Queued(
        queue_id=str(raw["queue_id"]),
        queue_name=str(raw["queue_name"]),
        sender=str(raw.get("sender", "")),
        recipients=tuple(entry["address"] for entry in entries),
        reasons=tuple(entry["delay_reason"] for entry in entries if "delay_reason" in entry),
    )

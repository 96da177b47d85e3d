"""The relay under test, with the stand-ins around it: what the checks talk to."""

from __future__ import annotations

import json
import shlex
import smtplib
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, TypeVar

from builder.config import RelayConfig
from builder.conformance.guest import GuestRelay
from builder.errors import BuilderError, CommandError
from builder.launch import Address, DiskGuest
from builder.standin.journal import Message
from builder.standin.provider import Provider
from builder.standin.stack import QEMU_HOST, StandIns
from builder.verify import probe
from builder.verify.world import Logins, let_in

T = TypeVar("T")

# A limit per client (`clients` in relay.yaml) holds for the probes too: a minute later there is room again.
_LIMITED = (421, 450)
_LIMIT_SECONDS, _LIMIT_PAUSE_SECONDS = 130, 10


class CheckFailed(BuilderError):
    """What was seen is not what was promised; the message is the evidence."""


def require(condition: object, evidence: str) -> None:
    """Raise CheckFailed with this evidence unless the condition is true."""
    if not condition:
        raise CheckFailed(evidence)


@dataclass
class Relay:
    """One booted image, and who may log in where at the moment."""

    guest: DiskGuest
    stand_ins: StandIns
    config: RelayConfig
    logins: Logins
    former: list[Logins] = field(default_factory=list)
    """What was in use before."""
    identity: dict[str, str] = field(default_factory=dict)
    """Machine id and host key of the first instance, once they were read."""
    subjects: list[str] = field(default_factory=list)
    """Messages that were accepted while the provider was away."""
    suite: GuestRelay | None = None
    """The same instance in the hands of the conformance suite, once that has begun."""

    @property
    def provider(self) -> Provider:
        """The provider stand-in that it sends to."""
        return self.stand_ins.provider

    @property
    def traces(self) -> dict[str, bytes]:
        """Name → bytes that give a credential away."""
        return {
            f"{name}, set {number}": value
            for number, logins in enumerate([*self.former, self.logins], start=1)
            for name, value in logins.traces
        }

    @property
    def addresses(self) -> tuple[str, str]:
        """Sender and recipient that this configuration accepts from here."""
        return probe.choose_addresses(self.config, QEMU_HOST)

    def change_passwords(self, logins: Logins) -> None:
        """Let the providers take new passwords only, in new sessions."""
        self.former.append(self.logins)
        self.logins = logins
        let_in(self.stand_ins, logins)
        self.provider.drop_sessions()

    def rotate_secrets(self) -> None:
        """Put what is valid now into the secrets, as a new version of each."""
        for name, content in self.logins.secrets.items():
            self.stand_ins.secrets.rotate(name, content)

    def send(self, count: int = 1) -> list[str]:
        """Hand in messages on port 25 and return their subjects once each got its 250."""
        subjects = [f"builder probe {uuid.uuid4().hex}" for _ in range(count)]
        for subject in subjects:
            self._hand_in(subject, time.monotonic() + _LIMIT_SECONDS)
        return subjects

    def _hand_in(self, subject: str, deadline: float) -> None:
        """Hand in one message, waiting as long as the relay says that this client has had its share."""
        host, port = self.guest.smtp_address
        sender, recipient = self.addresses
        while True:
            try:
                with smtplib.SMTP(host, port, local_hostname="verify.example.com", timeout=60) as client:
                    client.sendmail(sender, [recipient], _message(subject, sender, recipient))
                return
            except smtplib.SMTPException as error:
                if _code(error) not in _LIMITED or time.monotonic() > deadline:
                    raise
                time.sleep(_LIMIT_PAUSE_SECONDS)

    def wait_delivered(self, subjects: Sequence[str], *, timeout_seconds: float = 90) -> list[Message]:
        """Wait until the provider has accepted all of them; CheckFailed with what the queue says."""
        wanted = set(subjects)

        def delivered() -> list[Message]:
            return [message for message in self.provider.messages if message.subject in wanted]

        try:
            self.provider.wait_for(
                lambda: {message.subject for message in delivered()} == wanted,
                timeout_seconds=timeout_seconds,
            )
        except BuilderError as error:
            missing = len(wanted - {message.subject for message in delivered()})
            raise CheckFailed(
                f"{missing} of {len(wanted)} messages were not delivered within {timeout_seconds:.0f} s; "
                f"queue: {self.queue_in_words()}"
            ) from error
        return delivered()

    def queue(self) -> list[dict[str, Any]]:
        """Return the queue as `postqueue -j` shows it."""
        said = self.guest.run("postqueue -j", root=True).stdout
        return [json.loads(line) for line in said.splitlines() if line.strip()]

    def queue_in_words(self) -> str:
        """Return the queue in one line, also when it cannot be read."""
        try:
            queue = self.queue()
        except BuilderError as error:
            return f"cannot be read ({error.message.splitlines()[0]})"
        reasons = {reason for entry in queue for reason in _reasons(entry)}
        return f"{len(queue)} messages" + (f": {'; '.join(sorted(reasons))}" if reasons else "")

    def wait_deferred(
        self, count: int = 1, *, timeout_seconds: float = 90, guard: Callable[[], None] | None = None
    ) -> str:
        """Wait until that many messages are deferred and return the reasons; `guard` may raise meanwhile."""

        def reasons() -> str | None:
            if guard is not None:
                guard()
            deferred = [entry for entry in self.queue() if _reasons(entry)]
            found = {reason for entry in deferred for reason in _reasons(entry)}
            return "; ".join(sorted(found)) if len(deferred) >= count else None

        return self.wait(reasons, f"{count} deferred messages", timeout_seconds, self.queue_in_words)

    def flush(self) -> None:
        """Try everything in the queue now."""
        self.guest.run("postqueue -f", root=True)

    def bounces(self) -> list[Message]:
        """Return what was sent with the null sender: bounces."""
        return [message for message in self.provider.messages if not message.sender]

    def misbehave(self, *behaviours: Any) -> None:
        """Make the provider misbehave from now on, in sessions that are open too: they are broken."""
        self.provider.behave(*behaviours)
        self.provider.drop_sessions()

    def ready_text(self) -> str:
        """Return status and text of `/readyz` in one line."""
        status, text = self.guest.health("/readyz")
        return f"{status} {text}"

    def wait_proven(self, *, timeout_seconds: float = 150) -> None:
        """Wait until the agent says `ready`: `degraded` answers 200 too, but has no proven credential."""
        self.wait(lambda: self.state() == "ready", "state `ready`", timeout_seconds, self.ready_text)

    def state(self) -> str:
        """Return the agent's state as `/readyz` has it, or nothing."""
        try:
            return str(json.loads(self.guest.health("/readyz")[1])["state"])
        except (ValueError, KeyError, TypeError):
            return ""

    def has_listener(self, port: int = 25) -> bool:
        """Say whether something listens on a port in the guest."""
        said = self.guest.run(f"ss -Hltn 'sport = :{port}'", root=True).stdout
        return bool(said.strip())

    def greeting(self, *, timeout_seconds: float = 5) -> str:
        """Return the greeting on port 25, or nothing when there is none."""
        return greeting(self.guest.smtp_address, timeout_seconds=timeout_seconds)

    def wait_greeting(self, *, timeout_seconds: float) -> str:
        """Wait until port 25 greets, and return the greeting."""
        return self.wait(
            self.greeting, "a greeting on port 25", timeout_seconds, self.ready_text, pause_seconds=0.5
        )

    def read(self, command: str) -> str:
        """Run a command as root in the guest and return what it printed."""
        return self.guest.run(command, root=True).stdout.strip()

    def write(self, path: str, text: str) -> None:
        """Write a file in the guest, as root."""
        self.guest.run(f"cat > {shlex.quote(path)}", root=True, stdin=text)

    @staticmethod
    def wait(
        ask: Callable[[], T | None],
        what: str,
        timeout_seconds: float,
        explain: Callable[[], str],
        *,
        pause_seconds: float = 1.0,
    ) -> T:
        """Ask until there is an answer; CheckFailed says what was waited for and what is seen instead."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            answer = ask()
            if answer:
                return answer
            if time.monotonic() > deadline:
                raise CheckFailed(f"no {what} within {timeout_seconds:.0f} s; seen: {explain()}")
            time.sleep(pause_seconds)


def greeting(address: Address, *, timeout_seconds: float = 5) -> str:
    """Return the first line that an SMTP server says, or nothing.

    QEMU's network accepts a connection before it asks the guest, so only the greeting proves a listener.
    """
    try:
        with socket.create_connection(address, timeout=timeout_seconds) as connection:
            connection.settimeout(timeout_seconds)
            return connection.recv(512).decode(errors="replace").strip()
    except OSError:
        return ""


def first_line(error: BuilderError) -> str:
    """Return the first line of an error: the rest of a CommandError is a log."""
    lines = error.message.splitlines() or [""]
    return lines[0] + (f" … {lines[-1].strip()}" if isinstance(error, CommandError) and lines[1:] else "")


def _code(error: smtplib.SMTPException) -> int:
    """Return the reply's code; of several refused recipients the first one's."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return next((code for code, _text in error.recipients.values()), 0)
    return error.smtp_code if isinstance(error, smtplib.SMTPResponseException) else 0


def _message(subject: str, sender: str, recipient: str) -> bytes:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, recipient, subject
    message["Message-ID"] = f"<{uuid.uuid4().hex}@verify.example.com>"
    message.set_content("A line with a dot:\n.\n..two\nand an end.\n")
    return message.as_bytes()


def _reasons(entry: dict[str, Any]) -> list[str]:
    return [to["delay_reason"] for to in entry.get("recipients", []) if to.get("delay_reason")]

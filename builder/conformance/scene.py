"""One case while it runs: the relay, the providers, what was sent, and the account of where it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from builder.conformance.case import Case, MapState
from builder.conformance.client import Mail, Sent, send_all
from builder.conformance.relay import Queued, Relay, wait_until
from builder.conformance.report import Outcome
from builder.standin.provider import Provider

_CATCH_UP_SECONDS = 3


@dataclass(frozen=True)
class Upstream:
    """An account at a provider as the relay knows it: the provider's host name and one login.

    `account` is the login's name in the password map where another account has the host's.
    """

    host: str
    user: str
    password: str
    provider: Provider
    account: str = ""

    @property
    def key(self) -> str:
        """Where the password map has the login."""
        return self.account or self.host


class Scene:
    """A case's world. `provider` is the first upstream's; `check` notes what is wrong."""

    def __init__(self, case: Case, relay: Relay, upstreams: Sequence[Upstream]) -> None:
        self.case = case
        self.relay = relay
        self.upstreams = tuple(upstreams)
        # One stand-in may play several providers; what it has seen counts once.
        self.providers = tuple(dict.fromkeys(upstream.provider for upstream in upstreams))
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.sent: list[Sent] = []
        self._recipients = 0

    @property
    def provider(self) -> Provider:
        """The first upstream's provider."""
        return self.upstreams[0].provider

    def upstream(self, key: str) -> Upstream:
        """Return the upstream of that host name, or of that account."""
        return next(upstream for upstream in self.upstreams if upstream.key == key)

    # -- acting

    def mails(self, count: int, *, recipients: int = 1, **details: object) -> list[Mail]:
        """Make messages whose recipients occur nowhere else, so that each can be followed."""
        return [self.mail(self.new_recipients(recipients), **details) for _ in range(count)]

    def mail(self, recipients: tuple[str, ...], **details: Any) -> Mail:
        """Make a message from a sender that the relay accepts."""
        return Mail(recipients, **{"sender": self.relay.sender, **details})

    def new_recipients(self, count: int, *, domain: str | None = None) -> tuple[str, ...]:
        """Return addresses that were not used in this case yet."""
        domain = domain or self.relay.recipient_domain
        first = self._recipients + 1
        self._recipients += count
        return tuple(f"{self.case.name}.{number}@{domain}" for number in range(first, first + count))

    def send(self, mails: Sequence[Mail], *, client: str | None = None) -> list[Sent]:
        """Send messages in one session and keep them in the account."""
        sent = send_all(self.relay.smtp_address, mails, client=client)
        self.sent += sent
        return sent

    def set_map(self, state: MapState) -> None:
        """Put the password map into a state, as the agent would write it, and reload."""
        if state is MapState.MISSING:
            self.relay.remove_credentials()
        else:
            self.relay.set_credentials(self.logins(state))

    def logins(self, state: MapState = MapState.GOOD) -> dict[str, str]:
        """Return the map's entries for a state."""
        if state is MapState.EMPTY:
            return {}
        if state is MapState.OTHER_HOST:
            return {"smtp.elsewhere.example": "user:password"}
        wrong = "-wrong" if state is MapState.WRONG_PASSWORD else ""
        return {up.key: f"{up.user}:{up.password}{wrong}" for up in self.upstreams}

    def empty_reports(self) -> None:
        """Delete the reports of non-delivery that are kept on the relay."""
        self.relay.run(["sh", "-c", f"rm -f {self.relay.reports}/*"])

    # -- looking

    def check_no_null_sender(self) -> None:
        """Note each MAIL command without a sender that a provider got, whatever it answered."""
        sessions = (session for provider in self.providers for session in provider.sessions)
        for command, reply in (line for session in sessions for line in session.exchange):
            is_null = command.upper().startswith("MAIL FROM:<>")
            self.check(not is_null, f"a provider was offered a null sender: {command}: {reply}")

    def check(self, holds: bool, problem: str) -> None:
        """Note a problem unless something holds."""
        if not holds:
            self.problems.append(problem)

    def delivered(self) -> Counter[str]:
        """Count each recipient's copies that a provider has accepted, reports of non-delivery left out."""
        copies: Counter[str] = Counter()
        for provider in self.providers:
            for message in provider.messages:
                if message.sender:
                    copies.update(message.recipients)
        return copies

    def wait_for_delivered(self, count: int, *, timeout_seconds: float = 20) -> bool:
        """Wait until so many of the accepted recipients are delivered."""
        wanted = self.accepted()

        def enough() -> bool | None:
            return True if sum(name in self.delivered() for name in wanted) >= count else None

        return bool(wait_until(enough, timeout_seconds=timeout_seconds * self.relay.patience))

    def accepted(self) -> set[str]:
        """Return every recipient that the relay took responsibility for."""
        return {name for sent in self.sent for name in sent.accepted}

    def outcome(self, *, bounces_expected: int = 0, timeout_seconds: float = 30) -> Outcome:
        """Wait until nothing moves any more and say where every accepted recipient is."""
        queue = self.relay.wait_until_settled(timeout_seconds=timeout_seconds)

        # A message on its way between two queue directories is in neither list for a moment: look again.
        def accounted() -> list[Queued] | None:
            found = self.relay.wait_until_settled(timeout_seconds=timeout_seconds)
            return found if len(self._missing(found)) <= bounces_expected else None

        queue = wait_until(accounted, timeout_seconds=_CATCH_UP_SECONDS * self.relay.patience) or queue
        waiting = _recipients(queue)
        copies = self.delivered()
        accepted = self.accepted()
        return Outcome(
            client=tuple(sent.reply for sent in self.sent),
            accepted=len(accepted),
            delivered=sum(name in copies for name in accepted),
            queued=len(accepted & waiting),
            bounced=len(self._missing(queue)),
            duplicates=sum(copies[name] - 1 for name in accepted if copies[name] > 1),
            auths=self._total("auths"),
            leaks=sum(len(provider.leaks) for provider in self.providers),
            offered=self._total("offered"),
            reasons=tuple(sorted({reason for item in queue for reason in item.reasons})),
        )

    def kept_reports(self) -> str:
        """Return all reports of non-delivery that are kept on the relay, once nothing moves any more."""
        self.relay.wait_until_settled()
        return self.relay.run(["sh", "-c", f"cat {self.relay.reports}/*.eml"], check=False)

    def given_up(self) -> set[str]:
        """Return the recipients that were accepted, not delivered, and do not wait any more."""
        return self._missing(self.relay.wait_until_settled())

    def _missing(self, queue: Sequence[Queued]) -> set[str]:
        return self.accepted() - set(self.delivered()) - _recipients(queue)

    def _total(self, name: str) -> int:
        return sum(getattr(provider.counts, name) for provider in self.providers)


def _recipients(queue: Sequence[Queued]) -> set[str]:
    return {name for item in queue for name in item.recipients}

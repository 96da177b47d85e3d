"""A relay that is a booted image: the same cases, with commands run in the guest."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from builder.conformance import CASES
from builder.conformance.relay import Relay
from builder.conformance.report import CaseResult, Report
from builder.conformance.runner import run_cases
from builder.conformance.scene import Upstream
from builder.launch.interface import Guest

# The image has its own configuration, so only cases that need no other one can be run.
_SETUP = "plain"


class GuestRelay(Relay):
    """A booted image for the length of a `with` block, on a disk that is thrown away afterwards.

    The agent is stopped meanwhile: the cases write the password map themselves. `client_address` is what
    the guest sees this machine as (under QEMU 10.0.2.2).
    """

    abilities = frozenset({"xclient", "stop", "settings", "map"})
    patience = 6.0

    def __init__(self, guest: Guest, *, postfix_unit: str, client_address: str = "10.0.2.2") -> None:
        self.name = "booted image"
        self.smtp_address = guest.smtp_address
        self.submission_address = guest.smtp_address
        self._guest = guest
        self._unit = postfix_unit
        self._client = client_address

    def __enter__(self) -> GuestRelay:
        self.run(["systemctl", "stop", "relay-agent.service"])
        self.set_parameters({"smtpd_authorized_xclient_hosts": self._client})
        return self

    def __exit__(self, *_exc: object) -> None:
        self.run(["postconf", "-X", "smtpd_authorized_xclient_hosts"], check=False)
        self.reload()
        self.run(["systemctl", "start", "--no-block", "relay-agent.service"], check=False)

    def run(self, argv: Sequence[str], *, check: bool = True, timeout_seconds: float = 60) -> str:
        """Run a command as root in the guest."""
        timeout = timeout_seconds * self.patience
        return self._guest.run(shlex.join(argv), root=True, check=check, timeout_seconds=timeout).stdout

    def write_file(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Put a file in place by rename; never in an argument, which other users could see."""
        new = shlex.quote(f"{path}.new")
        # An old date: Postfix waits for a texthash file that has just changed (dict_thash.c).
        command = (
            f"umask 077 && cat >{new} && chmod {mode:o} {new} && touch -d '1 minute ago' {new} "
            f"&& mv {new} {shlex.quote(path)}"
        )
        self._guest.run(command, root=True, stdin=text)

    def remove_file(self, path: str) -> None:
        """Remove a file in the guest."""
        self.run(["rm", "-f", path])

    def start_postfix(self) -> None:
        """Start Postfix again through its unit."""
        self.run(["systemctl", "restart", self._unit])


def run_on_guest(
    guest: Guest,
    upstreams: Sequence[Upstream],
    *,
    postfix_unit: str,
    progress: Callable[[CaseResult], None] = lambda _result: None,
) -> Report:
    """Run every case that fits a booted image against its provider stand-ins; minutes under emulation."""
    cases = [case for case in CASES if case.setup == _SETUP]
    with GuestRelay(guest, postfix_unit=postfix_unit) as relay:
        return run_cases(relay, upstreams, cases, progress=progress)

"""What a booted image offers, wherever it runs: under QEMU now, as an EC2 instance with the same calls."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from builder.errors import BuilderError
from builder.process import Finished

SSH_PORT, SMTP_PORT, HEALTH_PORT = 22, 25, 8025
FORWARDED = (SSH_PORT, SMTP_PORT, HEALTH_PORT)

Address = tuple[str, int]


class GuestError(BuilderError):
    """A guest that died, did not become ready, or cannot be reached; says where its logs are."""


class Guest(Protocol):
    """A booted image. Times are in seconds since power-on."""

    @property
    def smtp_address(self) -> Address:
        """Where its port 25 is reached."""

    @property
    def health_address(self) -> Address:
        """Where `/livez`, `/readyz` and `/metrics` are reached."""

    @property
    def time_to_ready(self) -> float | None:
        """Seconds from the last power-on to the first 200 of `/readyz`; None before that."""

    def health(self, path: str = "/readyz") -> tuple[int, str]:
        """Ask a health address once: status and text; status 0 and the reason when there is no answer."""

    def wait_ready(self, *, timeout_seconds: float = 300) -> float:
        """Wait until `/readyz` says 200 and return `time_to_ready`."""

    def wait_ssh(self, *, timeout_seconds: float = 300) -> float:
        """Wait until a login works and return the seconds since power-on."""

    def run(
        self,
        command: str,
        *,
        root: bool = False,
        check: bool = True,
        stdin: str | None = None,
        timeout_seconds: float = 60,
    ) -> Finished:
        """Run a shell command in the guest."""

    def add_outside_address(self) -> Address:
        """Give the guest a second network and return where port 25 is reached through it.

        What connects there has an address in the guest's eyes that is not in its first network.
        """

    def reboot(self, *, timeout_seconds: float = 300) -> None:
        """Restart in an orderly way and return once a new kernel answers."""

    def power_cut(self) -> None:
        """Cut the power without warning and switch it on again, with the same disk."""

    def save_logs(self, folder: Path) -> None:
        """Copy what was written outside the guest (serial console) to a folder."""


class DiskGuest(Guest, Protocol):
    """A guest whose disk can be looked at from outside once it is off."""

    @property
    def disk(self) -> Path:
        """The overlay with what the guest wrote; read it only after `stop`."""

    def stop(self) -> None:
        """Switch off; what the guest had not written is gone. Its disk stays until the block ends."""


class Launcher(Protocol):
    """Boots an image and hands out the guest for the length of a `with` block."""

    def __call__(
        self, image: Path, *, user_data: str, login: bool, logs: Path | None
    ) -> AbstractContextManager[DiskGuest]:
        """Boot `image` fresh. `login`: make `run` work; `logs`: keep the console's output there."""


Forward = Mapping[int, int]

"""A relay that is a booted image: the same cases, with commands run in the guest."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from builder.conformance.relay import Relay
from builder.launch.interface import Guest

_AGENT_JSON = "/etc/relay/agent.json"
_KEEP_REPORTS = "/usr/lib/relay/bin/keep-dsn"
# What is asked about senders and recipients in an image without access rules; see builder/render/notices.py.
_NULL_REFUSED = "check_sender_access regexp:/etc/postfix/null_sender.regexp"
# The cases send more than `clients` of relay.yaml allows one client; those limits have cases of their own.
_NO_LIMITS = (
    "smtpd_client_connection_count_limit", "smtpd_client_connection_rate_limit",
    "smtpd_client_message_rate_limit", "smtpd_client_recipient_rate_limit",
)  # fmt: skip
# A queue that is filled in seconds, whatever the size of the disk; as large as that of sandbox.py.
_SMALL_SPOOL = """
set -e
new=$(mktemp -d)
mount -t tmpfs -o mode=755,size=256m,nr_inodes=20k tmpfs "$new"
cp -a /var/spool/postfix/. "$new"
mount --bind "$new" /var/spool/postfix
umount "$new"
rmdir "$new"
"""


class GuestRelay(Relay):
    """A booted image for the length of a `with` block, on a disk that is thrown away afterwards.

    The agent is stopped meanwhile: the cases write the password map themselves. The queue lies on a small
    file system of its own. `client_address` is what the guest sees this machine as (under QEMU 10.0.2.2).
    """

    abilities = frozenset({"xclient", "stop", "disk", "settings", "map"})
    patience = 6.0

    def __init__(self, guest: Guest, *, client_address: str = "10.0.2.2") -> None:
        self.name = "booted image"
        self.smtp_address = guest.smtp_address
        self.submission_address = guest.smtp_address
        self._guest = guest
        self._client = client_address
        self._unit = ""
        self._before: Mapping[str, str] = {}

    def __enter__(self) -> GuestRelay:
        settings = json.loads(self.run(["cat", _AGENT_JSON]))
        self._unit = settings["postfix_unit"]
        if settings["upstreams"][0]["tls"] == "starttls":
            self.abilities |= {"starttls"}
        if self.run(["sh", "-c", f"test -e {_KEEP_REPORTS} && echo yes"], check=False):
            self.abilities |= {"reports"}
        if self.run(["postconf", "-h", "smtpd_recipient_restrictions"]).strip() == _NULL_REFUSED:
            self.abilities |= {"null-refused"}
        self.run(["systemctl", "stop", "relay-agent.service", self._unit])
        self.run(["sh", "-c", _SMALL_SPOOL])
        self.start_postfix()
        limits = self.run(["postconf", *_NO_LIMITS]).splitlines()
        self._before = dict(line.split(" = ", 1) for line in limits)
        self.set_parameters(
            {"smtpd_authorized_xclient_hosts": self._client, **dict.fromkeys(_NO_LIMITS, "0")}
        )
        return self

    def __exit__(self, *_exc: object) -> None:
        self.run(["postconf", "-X", "smtpd_authorized_xclient_hosts"], check=False)
        self.run(
            ["postconf", "-e", *(f"{name}={value}" for name, value in self._before.items())], check=False
        )
        self.run(["systemctl", "stop", self._unit], check=False)
        self.run(["umount", "/var/spool/postfix"], check=False)
        self.run(["systemctl", "start", self._unit], check=False)
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

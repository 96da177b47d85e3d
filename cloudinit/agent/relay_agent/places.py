"""Where everything is inside the relay; tests put the same tree under another root."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Places:
    """Paths and ports; `root` is `/` in the relay."""

    root: Path = Path("/")
    smtp_port: int = 25
    smtp_host: str = "127.0.0.1"

    @property
    def agent_json(self) -> Path:
        """What the image was baked with."""
        return self.root / "etc/relay/agent.json"

    def baked(self, key: str) -> Any:
        """Return what agent.json says under `key`; None when it says nothing or cannot be read.

        What is wrong with the file as a whole is for settings.py to say.
        """
        try:
            return json.loads(self.agent_json.read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError, AttributeError):
            return None

    def below(self, path: object) -> Path:
        """Return where an absolute path of agent.json is."""
        return self.root / str(path).lstrip("/")

    @property
    def boot_json(self) -> Path:
        """What the launch user data says; cloud-init writes it at the first boot."""
        return self.root / "etc/relay/boot.json"

    @property
    def cloud_init_result(self) -> Path:
        """Exists as soon as cloud-init has finished, so no `boot.json` will come after it."""
        return self.root / "run/cloud-init/result.json"

    @property
    def cloud_init_status(self) -> Path:
        """What cloud-init has done so far in this boot; `write_files` belongs to its stage `init`."""
        return self.root / "run/cloud-init/status.json"

    @property
    def run_dir(self) -> Path:
        """On tmpfs, kept over a restart of the agent (`RuntimeDirectoryPreserve`), gone after a reboot."""
        return self.root / "run/relay"

    @property
    def sasl_map(self) -> Path:
        """The only file that ever holds the credential."""
        return self.run_dir / "sasl"

    @property
    def status_json(self) -> Path:
        """What `relayctl status` and `verify` read; holds no secret."""
        return self.run_dir / "status.json"

    @property
    def private_ca(self) -> Path:
        """The certificate authority of a private endpoint, when `boot.json` gives one."""
        return self.run_dir / "ca.pem"

    @property
    def draining(self) -> Path:
        """While this file exists port 25 stays closed; `relayctl drain` makes it."""
        return self.run_dir / "draining"

    @property
    def been_ready(self) -> Path:
        """This machine was ready once: after a reboot it accepts and queues at once."""
        return self.root / "var/lib/relay/been-ready"

    @property
    def log_cursor(self) -> Path:
        """How far the mail log was read."""
        return self.root / "var/lib/relay/log-cursor.json"

    @property
    def account_rate(self) -> Path:
        """What Amazon SES said last of the account's sending rate."""
        return self.root / "var/lib/relay/account-rate.json"

    @property
    def machine_id(self) -> Path:
        """Differs between two machines that were started from the same disk image."""
        return self.root / "etc/machine-id"

    @property
    def ca_bundle(self) -> Path:
        """The public certificate authorities, the same file that Postfix is told to use."""
        return self.root / "etc/ssl/certs/ca-certificates.crt"

    @property
    def spool(self) -> Path:
        """Postfix's queue."""
        return self.root / "var/spool/postfix"

    @property
    def unix_sockets(self) -> Path:
        """The kernel's list of Unix sockets: shows Postfix's master without asking it."""
        return self.root / "proc/self/net/unix"

    @property
    def kernel_sockets(self) -> tuple[Path, ...]:
        """The kernel's list of TCP sockets: shows a listener without connecting to it."""
        return (self.root / "proc/self/net/tcp", self.root / "proc/self/net/tcp6")


def changed_at(path: Path) -> int:
    """Return when a file was changed (ns since the epoch), 0 for none; another value, another content."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0

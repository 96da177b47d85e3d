"""Keep what explains a failed check: console, journal, queue, status."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.errors import BuilderError
from builder.launch import Guest

_COMMANDS = {
    "agent.log": "journalctl -u relay-agent --no-pager -o short-precise",
    "postfix.log": "journalctl -t postfix --no-pager -o short-precise; "
    "journalctl --no-pager -o short-precise | grep -F 'postfix/'",
    "journal.log": "journalctl -b --no-pager -o short-precise",
    "status.json": "cat /run/relay/status.json",
    "queue.json": "postqueue -j",
    "postconf.txt": "postconf -n; postconf -M",
    "listeners.txt": "ss -ltnp",
    "cloud-init.json": "cloud-init status --long; cat /run/cloud-init/result.json",
    "boot.txt": "systemd-analyze; systemd-analyze critical-chain relay-agent.service; systemctl --failed",
}


def collect(guest: Guest, folder: Path, *, hide: Sequence[bytes]) -> None:
    """Write the guest's logs to a folder, as far as the guest still answers; `hide` is blacked out."""
    folder.mkdir(parents=True, exist_ok=True)
    guest.save_logs(folder)
    for name, command in _COMMANDS.items():
        try:
            said = guest.run(command, root=True, check=False, timeout_seconds=60)
        except BuilderError as error:
            (folder / "unanswered.txt").write_text(f"{command}: {error.message}\n")
            return
        text = said.stdout + said.stderr
        for value in hide:
            text = text.replace(value.decode(errors="replace"), "(a credential)")
        (folder / name).write_text(text)

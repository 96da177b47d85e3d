"""What the agent does to Postfix: boot settings, port 25 open or closed, reload, flush. Never a restart."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from pathlib import Path
from typing import Callable

from relay_agent import programs
from relay_agent.maps import write_whole
from relay_agent.places import Places
from relay_agent.settings import Settings
from relay_agent.trouble import Trouble

# private n, unprivileged default, chroot n (so that /etc/hosts and resolved are the host's), no wake-up.
_LISTENER = "smtp inet n - n - - smtpd"
_LISTENING = "0A"  # include/net/tcp_states.h: TCP_LISTEN
_MASTERS_SOCKET = "public/showq"
_LOCAL_NETWORKS = ("127.0.0.0/8", "[::1]/128")


class Postfix:
    """Postfix of this machine; `config_dir` is given by tests that run an instance of their own."""

    def __init__(self, places: Places, *, config_dir: Path | None = None) -> None:
        self._places = places
        self._config = ["-c", str(config_dir)] if config_dir is not None else []

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line of one of Postfix's programs."""
        return [program, *self._config, *arguments]

    def is_running(self) -> bool:
        """Ask Postfix itself: on Ubuntu up to 24.04 the unit `postfix.service` is active without it.

        `postfix status` tries to take the master's lock, which a master that starts just now would miss:
        it is asked only when the master's sockets are there already. It costs several processes.
        """
        if not self.has_sockets():
            return False
        return programs.run(self.command("postfix", "status")).returncode == 0

    def has_sockets(self) -> bool:
        """Look for the master's sockets: costs no process, but a master that was killed can leave some."""
        try:
            lines = self._places.unix_sockets.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return True
        # The master binds it relative to the queue's folder.
        return any(line.endswith(" " + _MASTERS_SOCKET) for line in lines)

    def is_listening(self) -> bool:
        """Look in the kernel's list of sockets; connecting would leave two lines in the mail log."""
        wanted = f"{self._places.smtp_port:04X}"
        for table in self._places.kernel_sockets:
            try:
                lines = table.read_text(encoding="ascii", errors="replace").splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                fields = line.split()
                if len(fields) > 3 and fields[3] == _LISTENING and fields[1].endswith(":" + wanted):
                    return True
        return False

    def wait_for_listener(self, timeout_seconds: float = 3) -> bool:
        """Wait until port 25 is bound; for the moments in which Postfix starts."""
        return _wait(self.is_listening, timeout_seconds)

    def apply(self, settings: Settings) -> bool:
        """Put what `boot.json` says into main.cf with one `postconf -e`; False when it says nothing.

        Errors: Trouble `postfix-config`.
        """
        changes: dict[str, str] = {}
        if settings.boot_hostname:
            changes["myhostname"] = settings.boot_hostname
        if settings.boot_networks:
            changes["mynetworks"] = " ".join((*_LOCAL_NETWORKS, *map(_spell, settings.boot_networks)))
        first = settings.upstreams[0]
        if first.port != settings.baked_port:
            changes["relayhost"] = self._relayhost(first.host, first.port)
        if settings.ca_pem:
            write_whole(self._places.private_ca, settings.ca_pem, mode=0o644)
            changes["smtp_tls_CAfile"] = str(self._places.private_ca)
        if not changes:
            return False
        self._change("postconf", "-e", *(f"{name}={value}" for name, value in changes.items()))
        return True

    def has_listener(self) -> bool:
        """Say whether master.cf has the SMTP server on port 25."""
        return self._has_service("smtp")

    def open_port(self) -> None:
        """Put the SMTP server into master.cf; a running Postfix is told by `reload`."""
        self.open_service("smtp", _LISTENER)

    def close_port(self) -> None:
        """Take the SMTP server out of master.cf; the queue goes on being delivered."""
        self.close_service("smtp")
        if self.is_listening():
            # An earlier try changed the file, and Postfix was not told.
            self.reload()

    def open_service(self, service: str, entry: str) -> None:
        """Put a service into master.cf; a running Postfix is told by `reload`."""
        self._change("postconf", "-Me", f"{service}/inet={entry}")

    def close_service(self, service: str) -> None:
        """Take a service out of master.cf if it is there, and tell Postfix.

        The master ends the processes of a service that is gone: a client in the middle of a message gets no
        250 and sends it again.
        """
        if self._has_service(service):
            self._change("postconf", "-MX", f"{service}/inet")
            self.reload()

    def _has_service(self, service: str) -> bool:
        ended = programs.run(self.command("postconf", "-M", f"{service}/inet"))
        return any(line.startswith(service) for line in ended.stdout.splitlines())

    def message_bytes(self) -> int:
        """Return the size of the largest message that Postfix takes; 0 when it does not say."""
        ended = programs.run(self.command("postconf", "-xh", "message_size_limit"))
        text = ended.stdout.strip()
        return int(text) if text.isdigit() else 0

    def reload(self) -> bool:
        """Let Postfix read its files again; running sessions go on. False when Postfix does not run."""
        if not self.has_sockets():
            return False
        # No pipe: `postfix reload` leaves a queue check behind that would keep it open for minutes.
        if programs.run_quietly(self.command("postfix", "reload")) != 0:
            if not self.is_running():
                return False
            raise Trouble("postfix-config", "`postfix reload` failed", hint="`postfix check` says why")
        return True

    def flush(self) -> None:
        """Try everything in the queue once, now."""
        self._change("postqueue", "-f")

    def wait_for_banner(self, timeout_seconds: float = 10) -> bool:
        """Wait until the SMTP server greets; for the moments after a reload, not for regular checks."""
        return _wait(self._greets, timeout_seconds)

    def _greets(self) -> bool:
        try:
            address = (self._places.smtp_host, self._places.smtp_port)
            with socket.create_connection(address, timeout=5) as client:
                greeted = client.recv(512).startswith(b"220")
                client.sendall(b"QUIT\r\n")
                client.recv(512)
        except OSError:
            return False
        return greeted

    def _relayhost(self, host: str, port: int) -> str:
        """Replace the port of the first provider in the baked value, where a fallback may follow."""
        ended = programs.run(self.command("postconf", "-h", "relayhost"))
        # The whole host: the fallback's name may contain it, as that of another region does.
        pattern = re.compile(r"(?<![^\s,])(\[?" + re.escape(host) + r"\]?)(:\d+)?(?![^\s,])")
        changed, count = pattern.subn(lambda match: f"{match.group(1)}:{port}", ended.stdout.strip(), 1)
        return changed if count else f"[{host}]:{port}"

    def _change(self, program: str, *arguments: str) -> None:
        ended = programs.run(self.command(program, *arguments))
        if ended.returncode != 0:
            raise Trouble(
                "postfix-config",
                f"`{program} {arguments[0]}` failed: {ended.last_line}",
                hint="`postfix check` says more",
            )


def _wait(is_so: Callable[[], bool], timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _spell(network: str) -> str:
    """Write a network as mynetworks wants it: IPv6 addresses in brackets."""
    parsed = ipaddress.ip_network(network)
    if parsed.version == 6:
        return f"[{parsed.network_address}]/{parsed.prefixlen}"
    return str(parsed)

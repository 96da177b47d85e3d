"""Port 25: open when the rules allow it, closed when they do not, and Postfix told of what changed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Callable, Sequence

from relay_agent import dkim, firewall, instance, logs
from relay_agent.credential import Credential
from relay_agent.keeper import Fetch, Keeper
from relay_agent.logs import Log
from relay_agent.maps import read_sasl, write_sasl
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.room import RoomWatcher
from relay_agent.settings import Settings
from relay_agent.submission import Submission, read_plan
from relay_agent.trouble import Trouble

# A delivery that had begun with the old credential fails within seconds; the first flush passes it over.
_AGAIN_SECONDS = 10.0
_NETWORKS_SECONDS = 60.0


class Door:
    """Everything the agent does to Postfix, in the order that loses no mail."""

    def __init__(
        self,
        places: Places,
        postfix: Postfix,
        log: Log,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places, self._postfix, self._log, self._monotonic = places, postfix, log, monotonic
        self.is_open = False
        self.is_draining = False
        self.room = RoomWatcher(places.spool)
        self._must_refresh = self._must_flush = False
        self._again_at: float | None = None
        self._networks_due = 0.0
        self._is_written = self._is_shut = self._awaits_start = False
        self._applied: Settings | None = None
        try:
            # An agent that was started again finds what the one before it wrote.
            self._in_map = read_sasl(places.sasl_map)
        except (OSError, ValueError):
            self._in_map = {}

    def begin(self) -> None:
        """Make sure that a fresh machine does not accept mail, whatever master.cf says."""
        if not instance.has_been_ready(self._places):
            self._postfix.close_port()
        self.room.message_bytes = self._postfix.message_bytes()

    def prepare(self, settings: Settings) -> None:
        """Apply what `boot.json` changes."""
        if settings != self._applied:
            if self._postfix.apply(settings) and self.is_open:
                self._postfix.reload()
            self._applied = settings
        if settings.boot_networks:
            firewall.allow(firewall.read_plan(self._places), settings.boot_networks)
        self._networks_due = self._monotonic() + _NETWORKS_SECONDS

    def keep_networks(self, settings: Settings) -> None:
        """Look, about once a minute, whether the firewall still has the networks of `boot.json`.

        Who starts nftables again gets the networks of the image. Errors: Trouble `firewall`.
        """
        if not settings.boot_networks or self._monotonic() < self._networks_due:
            return
        if firewall.keep(firewall.read_plan(self._places), settings.boot_networks):
            self._log.warning("the firewall had lost the networks of boot.json; they are back")
        self._networks_due = self._monotonic() + _NETWORKS_SECONDS

    def submission(self, settings: Settings, fetch: Fetch) -> Submission | None:
        """Return the keeper of the port for clients that log in, in an image that has one."""
        plan = read_plan(self._places)
        if plan is None:
            return None
        first = settings.upstreams[0]
        return Submission(
            plan,
            self._postfix,
            self._log,
            fetch=lambda secret: fetch(replace(first, secret=secret)),
            hostname=settings.hostname or "relay.localdomain",
            poll_seconds=settings.poll_seconds,
        )

    def signer(self, settings: Settings, fetch: Fetch, monotonic: Callable[[], float]) -> dkim.Signer | None:
        """Return the keeper of DKIM keys and signer, in an image that signs."""
        plan = dkim.read_plan(self._places)
        if plan is None:
            return None
        first = settings.upstreams[0]
        return dkim.Signer(
            plan,
            self._log,
            fetch=lambda secret: fetch(replace(first, secret=secret)),
            poll_seconds=settings.poll_seconds,
            monotonic=monotonic,
        )

    def shut(self) -> None:
        """Close port 25 until `keep_open`: what came in now would only be refused by Postfix."""
        if not self._is_shut:
            self._postfix.close_port()
            self.is_open, self._is_written, self._is_shut = False, False, True
            self._log.warning("port 25 is closed: mail cannot be signed")

    def keep_open(self) -> None:
        """Open port 25, or open it again; returns when it is open.

        The marker comes first: a crash in between is a reboot of a machine that was allowed to open.
        Errors: Trouble `postfix-down`, `postfix-silent`, `postfix-config`.
        """
        if self.is_open and self._postfix.is_listening():
            return
        self.is_open = self._is_shut = False
        instance.mark_ready(self._places)
        if not self._is_written and not self._postfix.has_listener():
            self._postfix.open_port()
        # Looked at again when it does not help: somebody may have taken the listener out.
        self._is_written = True
        is_up = self._postfix.has_sockets()
        # One that was not there a moment ago binds one socket after the other just now.
        is_starting, self._awaits_start = self._awaits_start, not is_up
        is_open = self._postfix.wait_for_listener if is_starting else self._postfix.is_listening
        if is_up and not is_open():
            is_up = self._postfix.reload()
            if is_up:
                self._reloaded()
        if not is_up:
            raise Trouble(
                "postfix-down", "Postfix is not running (yet)", hint="`systemctl status 'postfix*'`"
            )
        if not self._postfix.wait_for_banner():
            self._is_written = False
            raise Trouble(
                "postfix-silent",
                f"Postfix runs, but nothing greets on port {self._places.smtp_port}",
                hint="`journalctl -p warning SYSLOG_FACILITY=2` says why",
            )
        self.is_open = True
        self._log.info("port 25 is open")

    def drain(self) -> None:
        """Close port 25 and try the queue once; what is in it goes on being delivered."""
        if not self.is_draining:
            self._postfix.close_port()
            self.is_open, self.is_draining, self._is_written = False, True, False
            self._log.info("port 25 is closed: draining")
            if self._postfix.is_running():
                self._postfix.flush()

    def use(self, keepers: Sequence[Keeper], *, was_ready: bool) -> bool:
        """Put proven credentials into the map by rename; Postfix reads them after one reload, then one flush.

        A machine that accepts mail without any proven credential also gets one that could not be tried:
        Postfix then recovers together with the provider. True when the map has changed.
        """
        wanted = dict(self._in_map)
        for keeper in keepers:
            key = keeper.upstream.key
            if keeper.current is not None:
                wanted[key] = keeper.current.credential
            elif keeper.untried is not None and was_ready and key not in wanted:
                wanted[key] = keeper.untried
        keys = {keeper.upstream.key for keeper in keepers}
        wanted = {key: login for key, login in wanted.items() if key in keys}
        for login in wanted.values():
            # Also what an agent before this one has written, and however long ago it was read.
            logs.hide_login(login.username, login.password)
        is_same = self._places.sasl_map.exists() and _logins(wanted) == _logins(self._in_map)
        if is_same or not wanted:
            return False
        write_sasl(self._places.sasl_map, wanted)
        self._in_map = wanted
        return True

    def refresh(self, *, is_new: bool = True) -> None:
        """Make Postfix read a new map, then try what waited for it: now and, once, some seconds later.

        While Postfix cannot be told it stays to be done: it would keep a credential that has ended. One that
        is yet to start reads the new map anyhow.
        """
        if is_new:
            self._must_flush = True
            self._must_refresh = self._must_refresh or self._postfix.has_sockets()
        if not (self.is_open or self.is_draining):
            return
        if self._must_refresh and self._postfix.reload():
            self._reloaded()
            self._postfix.flush()
        elif self._must_flush and not self._must_refresh and self._postfix.has_sockets():
            self._must_flush = False
            self._postfix.flush()
        elif self._again_at is not None and self._monotonic() >= self._again_at:
            self._again_at = None
            if self._postfix.has_sockets():
                self._postfix.flush()

    def _reloaded(self) -> None:
        """Note that Postfix has the new map; what is being delivered with the old one is flushed later."""
        if self._must_refresh:
            self._must_refresh = self._must_flush = False
            self._again_at = self._monotonic() + _AGAIN_SECONDS


def _logins(credentials: dict[str, Credential]) -> dict[str, tuple[str, str]]:
    return {key: (login.username, login.password) for key, login in credentials.items()}

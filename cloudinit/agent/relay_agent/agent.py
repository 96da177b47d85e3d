"""The loop of the agent: one round after the other, each from the files and the world as they are now."""

from __future__ import annotations

import threading
import time
from typing import Callable, Sequence

from relay_agent import instance, loops, notify
from relay_agent import settings as config
from relay_agent.backoff import Backoff
from relay_agent.board import Board
from relay_agent.credential import Credential
from relay_agent.dkim import Signer
from relay_agent.door import Door
from relay_agent.imds import Imds
from relay_agent.keeper import Fetch, Keeper, Prove
from relay_agent.logs import Log
from relay_agent.places import Places, changed_at
from relay_agent.probe import Prover
from relay_agent.secret import CURRENT, Library, SecretStore, SecretVersion
from relay_agent.settings import Settings, Upstream
from relay_agent.submission import Submission
from relay_agent.trouble import Trouble

_TICK_SECONDS = 2.0
# `boot.json` comes within seconds of the agent's start; look often, it is on the way to ready.
_BOOT_TICK_SECONDS = 0.2
# What a boot brings by itself, and what costs nothing to look for.
_SOON = {"boot-config-missing", "postfix-down", "dkim-down"}
_BOOT_JSON_SECONDS = 120.0
_WRITE_SECONDS = 5.0
_MOST_UNEXPECTED = 10


class World:
    """How the agent reaches what is outside: Secrets Manager and the provider."""

    def __init__(self, places: Places, library: Library) -> None:
        self._places, self._library = places, library
        self._store: SecretStore | None = None

    def connect(self, settings: Settings) -> tuple[Fetch, Prove]:
        """Return how to fetch a secret and how to prove a credential with these settings."""
        self.close()
        self._store = store = SecretStore(
            self._library, Imds(settings.imds_endpoint), endpoint=settings.endpoint
        )
        prover = Prover(
            ca_file=self._places.private_ca if settings.ca_pem else self._places.ca_bundle,
            hello=settings.hostname or "relay.localdomain",
        )

        def fetch(upstream: Upstream, stage: str = CURRENT) -> SecretVersion:
            return store.fetch(upstream.secret or "", settings.region, stage)

        return fetch, prover.prove

    def close(self) -> None:
        """Close what the last `connect` opened."""
        if self._store is not None:
            self._store.close()


class Agent:
    """Decides; `Keeper` knows about credentials and `Door` about Postfix."""

    def __init__(
        self,
        places: Places,
        board: Board,
        door: Door,
        log: Log,
        connect: Callable[[Settings], tuple[Fetch, Prove]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places, self._board, self._door, self._log = places, board, door, log
        self._connect = connect
        self._monotonic = monotonic
        self._started = monotonic()
        self._wake = threading.Event()
        self._stopping = False
        self._read_at: tuple[int, ...] = ()
        self._has_begun = self._is_prepared = False
        self._settings: Settings | None = None
        self._keepers: list[Keeper] = []
        self._submission: Submission | None = None
        self._signer: Signer | None = None
        self._trouble: Trouble | None = None
        self._settings_trouble: Trouble | None = None
        self._backoff = Backoff(base_seconds=0.5, cap_seconds=10)
        self._unexpected = 0
        self._is_told_ready = False
        self._said: dict[str, str] = {}
        self._wrote_at = 0.0

    def run(self) -> None:
        """Go round until `stop`."""
        while not self._stopping:
            self._wake.wait(self.step())
            self._wake.clear()
        # The file is otherwise seconds behind; who looks after a stop sees how it was left.
        self._write()
        notify.notify("STOPPING=1")

    def stop(self) -> None:
        """End after this round; port 25 stays as it is, Postfix goes on."""
        self._stopping = True
        self._wake.set()

    def login_refused(self) -> None:
        """Take the hint of the mail log that the provider refused our login."""
        for keeper in self._keepers:
            keeper.suspect()
        self._wake.set()

    def step(self) -> float:
        """Do one round and return how many seconds to wait before the next."""
        self._board.beat()
        try:
            wait = self._round()
            self._trouble, self._unexpected = None, 0
            self._backoff.reset()
        except Trouble as trouble:
            self._trouble = trouble
            wait = _BOOT_TICK_SECONDS if trouble.code in _SOON else self._backoff.next_seconds()
        except OSError as error:
            # A full disk or a read-only file system: say so and go on, nothing else would notice.
            self._trouble = Trouble("file-error", f"A file of the agent cannot be written: {error}")
            wait = self._backoff.next_seconds()
        except Exception as error:
            self._trouble = loops.failed("main", error)
            wait = self._backoff.next_seconds()
            self._unexpected += 1
            if self._unexpected > _MOST_UNEXPECTED:
                # A new process may not have what this one has caught.
                raise
        self._publish()
        return wait

    def _round(self) -> float:
        if not self._has_begun:
            # While cloud-init is still on its way to `boot.json`: it costs no time then.
            self._door.begin()
            self._has_begun = True
        settings = self._read_settings()
        was_ready = instance.has_been_ready(self._places)
        unprepared = self._prepare(settings, was_ready=was_ready)
        unsigned = self._sign()
        is_draining = self._places.draining.exists()
        if not is_draining:
            self._door.is_draining = False
        hindered = self._keep_port() if was_ready or is_draining else None
        config.require_secrets(settings)
        self._check_credentials(was_ready)
        if any(keeper.is_proven for keeper in self._keepers):
            hindered = self._keep_port()
        if self._submission is not None:
            self._submission.check(may_open=self._door.is_open)
            self._board.set(submission=self._submission.as_json())
        trouble = hindered or unprepared or unsigned or self._settings_trouble
        if trouble is not None:
            raise trouble
        due = min((keeper.due for keeper in self._keepers), default=0.0) - self._monotonic()
        return max(0.05, min(_TICK_SECONDS, due))

    def _sign(self) -> Trouble | None:
        """See that mail is signed, in an image that signs; while it cannot be, port 25 is closed."""
        if self._signer is None:
            return None
        trouble = self._signer.check()
        self._board.set(dkim=self._signer.as_json())
        if self._signer.blocks:
            try:
                self._door.shut()
            except Trouble as hindrance:
                return hindrance
        return trouble

    def _prepare(self, settings: Settings, *, was_ready: bool) -> Trouble | None:
        """Apply what `boot.json` changes, and see that it stays.

        A machine that was ready before has it from then and goes on when this fails: with a full disk
        `postconf -e` cannot write, and without a credential the queue that fills it would never be delivered.
        """
        try:
            if self._is_prepared:
                self._door.keep_networks(settings)
            else:
                self._door.prepare(settings)
        except Trouble as trouble:
            if not (was_ready or self._is_prepared):
                raise
            return trouble
        self._is_prepared = True
        return None

    def _keep_port(self) -> Trouble | None:
        """Keep port 25 open, or closed for draining; what hinders it must not hinder the rest."""
        was_open = self._door.is_open
        try:
            if self._places.draining.exists():
                self._door.drain()
                return None
            if self._signer is not None and self._signer.blocks:
                return None
            self._door.keep_open()
        except Trouble as trouble:
            return trouble
        if not was_open:
            # Say it before the credential is fetched, which can take a while.
            self._publish()
        return None

    def _check_credentials(self, was_ready: bool) -> None:
        fresh = []
        for keeper in self._keepers:
            if keeper.check():
                fresh.append(keeper)
        self._log_fresh(fresh)
        changed = self._door.use(self._keepers, was_ready=was_ready)
        self._door.refresh(is_new=changed or bool(fresh))

    def _read_settings(self) -> Settings:
        """Read the files when they have changed, so that a mended one is used without a restart."""
        waited = self._monotonic() - self._started
        if instance.awaits_boot_json(self._places) and waited < _BOOT_JSON_SECONDS:
            raise Trouble(
                "boot-config-missing",
                "Waiting for cloud-init to write `/etc/relay/boot.json`",
                hint="`cloud-init status --long` says what it is doing",
            )
        stamp = tuple(changed_at(path) for path in (self._places.agent_json, self._places.boot_json))
        if self._settings is None or stamp != self._read_at:
            self._load(stamp)
        assert self._settings is not None  # noqa: S101 - set by _take
        return self._settings

    def _load(self, stamp: tuple[int, ...]) -> None:
        try:
            settings = config.load(self._places)
        except Trouble as trouble:
            if self._settings is None:
                raise
            # A relay that works goes on with what it has, and says what is wrong with the files.
            self._settings_trouble = trouble
            return
        self._read_at, self._settings_trouble = stamp, None
        if settings != self._settings:
            self._take(settings)

    def _take(self, settings: Settings) -> None:
        fetch, prove = self._beating(*self._connect(settings))
        self._settings, self._is_prepared = settings, False
        self._keepers = [
            Keeper(
                upstream,
                fetch=fetch,
                prove=prove,
                poll_seconds=settings.poll_seconds,
                monotonic=self._monotonic,
            )
            for upstream in settings.upstreams
        ]
        self._submission = self._door.submission(settings, fetch)
        self._signer = self._door.signer(settings, fetch, self._monotonic)
        self._board.set(preset=settings.preset, region=settings.region)
        self._log.info("settings", preset=settings.preset, unknown_keys=list(settings.unknown))

    def _beating(self, fetch: Fetch, prove: Prove) -> tuple[Fetch, Prove]:
        """Say that the loop is alive before each step that waits for others.

        Each may take a minute when nothing answers, and a round can have many: secrets of providers, keys and
        users. The watchdog must not take that for a hang.
        """

        def beat() -> None:
            self._board.beat()
            notify.notify("WATCHDOG=1")

        def fetch_alive(upstream: Upstream, stage: str = CURRENT, /) -> SecretVersion:
            beat()
            return fetch(upstream, stage)

        def prove_alive(upstream: Upstream, credential: Credential) -> None:
            beat()
            prove(upstream, credential)

        return fetch_alive, prove_alive

    def _log_fresh(self, fresh: Sequence[Keeper]) -> None:
        for keeper in fresh:
            if keeper.current is not None:
                self._log.info(
                    "credential in use",
                    upstream=keeper.upstream.name,
                    version_id=keeper.current.version_id,
                    shape=keeper.current.credential.shape,
                    note=keeper.current.credential.note,
                )

    def _decide(self) -> tuple[str, Trouble | None]:
        """Return the state and its reason; the table is in board.py."""
        unproven = [keeper for keeper in self._keepers if not keeper.is_proven]
        waiting = next((keeper.trouble for keeper in unproven if keeper.trouble), None)
        if self._door.is_draining:
            return "draining", self._trouble
        if not self._door.is_open:
            deadline = self._settings.boot_deadline_seconds if self._settings else 300
            overdue = self._is_told_ready or self._monotonic() - self._started > deadline
            return ("failed" if overdue else "starting"), self._trouble or waiting
        if self._door.room.full:
            return "full", self._door.room.full
        found = self._trouble or waiting or self._door.room.low
        if found or unproven or not self._keepers:
            return "degraded", found
        return "ready", None

    def _publish(self) -> None:
        room = self._door.room
        room.check()
        if room.room is not None:
            self._board.set(room=room.room.as_json())
        state, trouble = self._decide()
        self._board.set(upstreams=[keeper.as_json() for keeper in self._keepers])
        changed = self._board.set_state(state, trouble.as_json() if trouble else None)
        if self._door.is_open and not self._is_told_ready:
            self._is_told_ready = True
            notify.notify("READY=1")
        if changed:
            message = self._board.readiness()["message"]
            notify.notify("STATUS=" + str(message))
            level = self._log.info if state in ("ready", "draining") else self._log.warning
            level("state", state=state, **(trouble.as_json() if trouble else {}))
        self._say_troubles()
        notify.notify("WATCHDOG=1")
        if changed or self._monotonic() - self._wrote_at > _WRITE_SECONDS:
            self._wrote_at = self._monotonic()
            self._write()

    def _say_troubles(self) -> None:
        """Log what is wrong with a credential once, not at every try."""
        for keeper in self._keepers:
            message = keeper.trouble.message if keeper.trouble else ""
            if message != self._said.get(keeper.upstream.name, ""):
                self._said[keeper.upstream.name] = message
                if keeper.trouble:
                    fields = keeper.trouble.as_json()
                    self._log.warning("credential", upstream=keeper.upstream.name, **fields)

    def _write(self) -> None:
        try:
            self._board.write()
        except OSError as error:
            self._log.warning("status.json cannot be written", error=str(error))

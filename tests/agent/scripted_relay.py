"""One agent with a clock, a secret and a provider that the test scripts, around fake Postfix programs."""

from __future__ import annotations

import io
import json
from typing import Any

from relay_agent.agent import Agent
from relay_agent.board import Board
from relay_agent.credential import Credential
from relay_agent.door import Door
from relay_agent.logs import Log
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.secret import CURRENT, PREVIOUS, SecretVersion
from relay_agent.settings import Settings, Upstream
from relay_agent.traffic import Traffic
from relay_agent.trouble import Trouble

from tests.agent.relay_world import FakePostfix, agent_json, write_json

REFUSED = Trouble("auth-refused", "the provider said 535", lasting=True)
BUSY = Trouble("auth-temporary", "the provider said 454")
MISSING = Trouble("secret-missing", "There is no secret", lasting=True)
AUTH_LINE = (
    "4bZyX9w: to=<a@example.org>, relay=localhost[127.0.0.1]:587, delay=1, delays=0/0/1/0, dsn=4.7.8, "
    "status=deferred (SASL authentication failed; server localhost[127.0.0.1] said: 535 5.7.8 no)"
)


class Relay:
    """One agent with a clock that the test moves, and a secret and a provider that it scripts."""

    def __init__(self, places: Places, postfix: FakePostfix) -> None:
        self.places, self.postfix = places, postfix
        self.now = 1000.0
        self.log = io.StringIO()
        self.versions: dict[str, tuple[str, str]] = {"relay/ses": ("v1", "password-1")}
        self.fetch_trouble: Trouble | None = None
        self.answers: dict[str, Trouble] = {}
        self.probes: list[str] = []
        self.fetches = self.fetches_of_previous = 0
        # The version at stage AWSPREVIOUS, of any secret.
        self.previous: tuple[str, str] | None = None
        self.maps_at_probe: list[str] = []
        write_json(places.agent_json, agent_json())
        write_json(places.boot_json, {"schema": 1})
        self.restart()

    def restart(self) -> None:
        """Start the agent (again), as systemd does."""
        log = Log(self.log)
        self.board = Board(self.places, Traffic(), version="test")
        door = Door(self.places, Postfix(self.places), log, monotonic=lambda: self.now)
        self.agent = Agent(self.places, self.board, door, log, self._connect, monotonic=lambda: self.now)

    def reboot(self) -> None:
        """Lose what is on tmpfs; Postfix starts from the files."""
        for path in self.places.run_dir.iterdir():
            path.unlink()
        self.restart()
        self.postfix.start()

    def _connect(self, settings: Settings) -> Any:
        return self._fetch, self._prove

    def _fetch(self, upstream: Upstream, stage: str = CURRENT) -> SecretVersion:
        if self.fetch_trouble:
            self.fetches += 1
            raise self.fetch_trouble
        if stage == PREVIOUS:
            self.fetches_of_previous += 1
            if self.previous is None:
                raise MISSING
            version_id, password = self.previous
        else:
            self.fetches += 1
            version_id, password = self.versions[str(upstream.secret)]
        text = json.dumps({"username": "user", "password": password})
        return SecretVersion(text, version_id, 500.0)

    def _prove(self, upstream: Upstream, credential: Credential) -> None:
        self.probes.append(credential.password)
        self.maps_at_probe.append(self.map)
        if credential.password in self.answers:
            raise self.answers[credential.password]

    def rounds(self, count: int = 1, *, seconds: float = 0) -> None:
        """Go round; before each the clock goes on by `seconds`."""
        for _ in range(count):
            self.now += seconds
            self.agent.step()

    @property
    def map(self) -> str:
        return self.places.sasl_map.read_text() if self.places.sasl_map.exists() else ""

    @property
    def state(self) -> str:
        return self.board.state

    @property
    def reason(self) -> str:
        reason = self.board.values()["reason"]
        return str(reason["code"]) if reason else ""

    @property
    def status(self) -> Any:
        return json.loads(self.places.status_json.read_text())

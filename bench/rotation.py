"""Ten rotations of the password under constant load: what is lost, doubled, bounced, deferred, and how late.

A real Postfix with this product's rendered configuration, the agent's own rotation (fetch, AUTH probe with
the new password, map by rename, reload, one flush), and the provider stand-in, at which the old password ends
one second after the new one is in use. Needs root and Postfix.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cloudinit/agent"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from relay_agent import postfix as agent_postfix
from relay_agent.credential import Credential
from relay_agent.door import Door
from relay_agent.keeper import Keeper
from relay_agent.logs import Log
from relay_agent.places import Places
from relay_agent.probe import Prover
from relay_agent.secret import SecretVersion
from relay_agent.settings import Shape, Upstream

from bench import harness
from builder.config.model import RelayConfig
from builder.conformance.client import Mail, send, session
from builder.conformance.local import LocalRelay
from builder.releases import Release
from builder.render import render
from builder.standin.provider import Provider

HOST = "email-smtp.us-east-1.amazonaws.com"
_USER = "AKIAROTATES"
_SHAPE = Shape("smtp", ("username", "password"), "{username}", "{password}")
_SETTLE_SECONDS = 40
_RELOADED = " reload -- version "
_DELAY = re.compile(r" delay=([\d.]+),.* status=(\w+)")


class SandboxPostfix(agent_postfix.Postfix):
    """The agent's way to Postfix, for a relay that is in a namespace of its own."""

    def __init__(self, places: Places, relay: LocalRelay) -> None:
        super().__init__(places)
        self._relay = relay

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command line that runs one of Postfix's programs inside."""
        return self._relay.command([program, *arguments])

    def has_listener(self) -> bool:
        """Leave the listener alone: the sandbox has its own, on a port that was free."""
        return True


@dataclass
class Scene:
    """The relay, the provider, and the secret as Secrets Manager would give it."""

    relay: LocalRelay
    provider: Provider
    door: Door
    keeper: Keeper
    secret: list[SecretVersion] = field(default_factory=list)

    def rotate(self, number: int) -> float:
        """Make a new password and let the agent take it; return how many seconds that took."""
        password = f"password-{number:04d}"
        self.provider.set_password(_USER, password, keep_old=True)
        text = json.dumps({"username": _USER, "password": password})
        self.secret[:] = [SecretVersion(text, f"version-{number}")]
        self.keeper.retry_now()
        started = time.monotonic()
        if not self.keeper.check():
            raise SystemExit(f"Rotation {number} was not taken: {self.keeper.trouble}")
        self.door.use([self.keeper], was_ready=True)
        self.door.refresh()
        return time.monotonic() - started

    def settle(self, accepted: int) -> None:
        """Wait until the provider has all of them; what met an old password's end waits for the agent."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while self.provider.counts.messages < accepted and time.monotonic() < deadline:
            self.door.refresh(is_new=False)
            time.sleep(1)

    def queued(self) -> set[str]:
        """Return the recipients whose message is still in the queue."""
        return {name for item in self.relay.queue() for name in item.recipients}


@contextlib.contextmanager
def scene(release: Release, folder: Path) -> Iterator[Scene]:
    """Start everything; the first password is in use."""
    config = RelayConfig.model_validate({"preset": "ses", "region": "us-east-1"})
    (folder / "agent/run").mkdir(parents=True)
    (folder / "agent/proc").symlink_to("/proc")
    (folder / "relay").mkdir()
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(Provider(users={_USER: "first"}, host_names=(HOST, "localhost")))
        relay = LocalRelay(
            render(config, release), folder / "relay", ports={HOST: provider.port}, ca_pem=provider.ca_pem
        )
        stack.enter_context(relay)
        host, port = relay.smtp_address
        places = Places(folder / "agent", smtp_host=host, smtp_port=port)
        places.run_dir.symlink_to(folder / "relay/run-relay")
        prover = Prover(ca_file=places.private_ca, hello="relay.example.com")

        def prove(upstream: Upstream, credential: Credential) -> None:
            # The provider's name is known inside the namespace only.
            prover.prove(replace(upstream, host="localhost", port=provider.port), credential)

        secret = [SecretVersion(json.dumps({"username": _USER, "password": "first"}), "version-0")]
        upstream = Upstream(
            "primary", HOST, provider.port, "starttls", (_SHAPE,), ("plain",), "relay/ses", "us-east-1"
        )
        keeper = Keeper(upstream, fetch=lambda _upstream, _stage="": secret[0], prove=prove, poll_seconds=60)
        door = Door(places, SandboxPostfix(places, relay), Log(io.StringIO()))
        keeper.check()
        door.use([keeper], was_ready=True)
        door.keep_open()
        door.refresh()
        yield Scene(relay, provider, door, keeper, secret)


class Load(threading.Thread):
    """A client that hands over so many messages a second, each with a recipient of its own."""

    def __init__(self, address: tuple[str, int], per_second: float) -> None:
        super().__init__(daemon=True)
        self._address, self._per_second = address, per_second
        self._ended = threading.Event()
        self.accepted: list[str] = []
        self.refused: list[str] = []

    def run(self) -> None:
        """Send until `stop`; a reload of Postfix may end the session, then a new one is opened."""
        started, number = time.monotonic(), 0
        while not self._ended.is_set():
            with session(self._address) as smtp:
                for _ in range(50):
                    self._ended.wait(max(0.0, started + number / self._per_second - time.monotonic()))
                    number += 1
                    name = f"to{number}@example.net"
                    sent = send(smtp, Mail((name,)))
                    (self.accepted if sent.accepted else self.refused).append(
                        name if sent.accepted else sent.reply
                    )

    def stop(self) -> None:
        """End after the message that is on its way."""
        self._ended.set()
        self.join(30)


def measure(
    release: Release, folder: Path, *, rotations: int, per_second: float, pause: float, overlap: float
) -> dict[str, Any]:
    """Rotate under load, `overlap` seconds with both passwords valid; return what became of every message."""
    with scene(release, folder) as stage:
        load = Load(stage.relay.smtp_address, per_second)
        began = time.monotonic()
        load.start()
        taken = []
        for number in range(1, rotations + 1):
            time.sleep(pause)
            taken.append(stage.rotate(number))
            time.sleep(overlap)
            stage.provider.forget_old_passwords(_USER)
        time.sleep(pause)
        load.stop()
        seconds = time.monotonic() - began
        stage.settle(len(load.accepted))
        arrived = Counter(name for message in stage.provider.messages for name in message.recipients)
        queued = stage.queued()
        log = stage.relay.log()
    delays = [(float(delay), status) for delay, status in _DELAY.findall(log)]
    return {
        "rotations": rotations,
        "reloads": log.count(_RELOADED),
        "per_second": round(len(load.accepted) / seconds, 1),
        "accepted": len(load.accepted),
        "refused": len(load.refused),
        "lost": len(set(load.accepted) - set(arrived) - queued),
        "queued": len(queued),
        "doubled": sum(count - 1 for count in arrived.values()),
        "bounced": sum(status == "bounced" for _delay, status in delays),
        "deferred": sum(status == "deferred" for _delay, status in delays),
        "auths_refused": stage.provider.counts.auths_refused,
        "longest_delay_seconds": max(delay for delay, status in delays if status == "sent"),
        "rotation_seconds": harness.summary(taken),
    }


def main() -> None:
    """Measure and report."""
    from bench.throughput import release_here

    parser = harness.arguments(__doc__ or "", runs=10)
    parser.add_argument("--rate", type=float, default=50, help="messages per second")
    parser.add_argument("--pause", type=float, default=2, help="seconds between two rotations")
    parser.add_argument("--overlap", type=float, default=1, help="seconds in which both passwords are valid")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result = measure(
            release_here(),
            Path(folder),
            rotations=options.runs,
            per_second=options.rate,
            pause=options.pause,
            overlap=options.overlap,
        )
    harness.report(result, as_json=options.json)


if __name__ == "__main__":
    main()

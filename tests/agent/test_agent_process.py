"""The agent as a process against all stand-ins: boot to ready, rotation, SIGTERM; and no secret anywhere."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from relay_agent.credential import ses_smtp_v4
from relay_agent.places import Places

from builder.standin.metadata import Metadata
from builder.standin.provider import Provider
from builder.standin.secrets import SecretsManager
from tests.agent.relay_world import SECRET, USER, FakePostfix, agent_json, write_json
from tests.fakes import FakeTools

# A whole process with the AWS library takes seconds.
pytestmark = pytest.mark.aws

AGENT = Path(__file__).resolve().parents[2] / "cloudinit" / "agent"
START = """\
import sys
from pathlib import Path
sys.path.insert(0, {agent!r})
from relay_agent.__main__ import main
from relay_agent.places import Places
sys.exit(main(Places(Path({root!r}), smtp_port={port})))
"""
KEYS = ("CanarySecretKeyNumber/One+0123456789", "CanarySecretKeyNumber/Two+0123456789")
LINE = {
    "__CURSOR": "s=1;i=7",
    "__REALTIME_TIMESTAMP": "1795370871000000",
    "SYSLOG_IDENTIFIER": "postfix/smtp",
    "MESSAGE": "4bZyX9w: to=<a@example.org>, relay=localhost[127.0.0.1]:587, conn_use=2, delay=0.2, "
    "delays=0/0/0.1/0.1, dsn=2.0.0, status=sent (250 Ok 0100)",
}


class Process:
    """A running agent."""

    def __init__(self, places: Places, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.health_port = free.getsockname()[1]
        write_json(places.agent_json, agent_json(health_port=self.health_port, poll_seconds=1))
        self.places = places
        self.output = folder / "output"
        self._file: IO[bytes] = self.output.open("wb")
        code = START.format(agent=str(AGENT), root=str(places.root), port=places.smtp_port)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=self._file, stderr=subprocess.STDOUT
        )

    def get(self, path: str) -> tuple[int, str]:
        """Ask the health server; status 0 when it does not answer yet."""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def wait_for(self, seen: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < deadline, self.output.read_text() + str(self.get("/readyz"))
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.1)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self._file.close()


@pytest.fixture
def boot(
    places: Places,
    postfix_programs: FakePostfix,
    provider: Provider,
    secrets: SecretsManager,
    metadata: Metadata,
    fake_tool: FakeTools,
    tmp_path: Path,
) -> Iterator[Callable[[], Process]]:
    """Write boot.json and start an agent."""
    (tmp_path / "journal").write_text(json.dumps(LINE) + "\n")
    fake_tool("journalctl", f"cat {tmp_path}/journal; exec sleep 60")
    provider.set_password(USER, ses_smtp_v4(KEYS[0], "us-east-1"))
    secrets.put(SECRET, {"access_key_id": USER, "secret_access_key": KEYS[0]})
    value: dict[str, Any] = {
        "schema": 1,
        "endpoint": secrets.endpoint,
        "imds_endpoint": metadata.endpoint,
        "upstream": {"port": provider.port, "ca_pem": provider.ca_pem},
    }
    started: list[Process] = []

    def start() -> Process:
        write_json(places.boot_json, value)
        started.append(Process(places, tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.wait()
        process._file.close()


def test_from_boot_to_ready_through_a_rotation_and_no_secret_leaks(
    boot: Callable[[], Process],
    places: Places,
    provider: Provider,
    secrets: SecretsManager,
    postfix_programs: FakePostfix,
    tmp_path: Path,
) -> None:
    agent = boot()
    agent.wait_for(lambda: agent.get("/readyz")[0] == 200)
    assert json.loads(agent.get("/readyz")[1])["state"] == "ready"
    assert postfix_programs.is_open
    first = ses_smtp_v4(KEYS[0], "us-east-1")
    assert places.sasl_map.read_text() == f"localhost {USER}:{first}\n"
    assert stat.S_IMODE(places.sasl_map.stat().st_mode) == 0o600
    agent.wait_for(lambda: "relay_deliveries_total" in agent.get("/metrics")[1])
    agent.wait_for(lambda: 'result="delivered",reply_class="2xx"' in agent.get("/metrics")[1])

    second = ses_smtp_v4(KEYS[1], "us-east-1")
    provider.set_password(USER, second, keep_old=True)
    version = secrets.rotate(SECRET, {"access_key_id": USER, "secret_access_key": KEYS[1]})
    agent.wait_for(lambda: second in places.sasl_map.read_text())
    agent.wait_for(lambda: version in agent.get("/metrics")[1])
    pages = "".join(agent.get(path)[1] for path in ("/readyz", "/livez", "/metrics", "/other"))

    assert agent.stop() == 0
    assert json.loads(places.log_cursor.read_text())["cursor"] == "s=1;i=7"
    assert provider.leaks == ()
    for line in agent.output.read_text().splitlines():
        json.loads(line)
    # The canary: neither key nor password in any output, file or argument but the map itself.
    seen = pages + agent.output.read_text()
    for path in tmp_path.rglob("*"):
        if path.is_file() and path != places.sasl_map:
            seen += path.read_text(errors="replace")
    for canary in (*KEYS, first, second, "only-for-the-stand-in"):
        assert canary not in seen


def test_a_wrong_password_keeps_the_port_closed_and_is_mended_by_a_new_version(
    boot: Callable[[], Process],
    places: Places,
    provider: Provider,
    secrets: SecretsManager,
    postfix_programs: FakePostfix,
) -> None:
    secrets.delete(SECRET)
    secrets.put(SECRET, {"access_key_id": USER, "secret_access_key": KEYS[1]})
    agent = boot()
    agent.wait_for(lambda: "auth-refused" in agent.get("/readyz")[1])
    assert agent.get("/readyz")[0] == 503
    assert agent.get("/livez")[0] == 200
    assert not postfix_programs.has_listener
    assert not places.sasl_map.exists()
    secrets.rotate(SECRET, {"access_key_id": USER, "secret_access_key": KEYS[0]})
    agent.wait_for(lambda: agent.get("/readyz")[0] == 200)
    assert agent.stop() == 0


def test_a_wrong_password_in_the_newest_version_opens_the_port_with_the_one_before(
    boot: Callable[[], Process], places: Places, provider: Provider, secrets: SecretsManager
) -> None:
    newest = secrets.rotate(SECRET, {"access_key_id": USER, "secret_access_key": KEYS[1]})
    agent = boot()
    agent.wait_for(lambda: agent.get("/readyz")[0] == 200)
    (shown,) = json.loads(agent.get("/readyz")[1])["upstreams"]
    assert (shown["state"], shown["refused_version"]) == ("proven", newest)
    assert places.sasl_map.read_text() == f"localhost {USER}:{ses_smtp_v4(KEYS[0], 'us-east-1')}\n"
    provider.set_password(USER, ses_smtp_v4(KEYS[1], "us-east-1"), keep_old=True)
    agent.wait_for(lambda: newest == json.loads(agent.get("/readyz")[1])["upstreams"][0]["version_id"])
    assert agent.stop() == 0

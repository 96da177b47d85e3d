"""Rotations under load and in mid-delivery, through a real Postfix: nothing is lost, late or doubled."""

from __future__ import annotations

import json
import re
import smtplib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_agent.agent import Agent, World
from relay_agent.board import Board
from relay_agent.door import Door
from relay_agent.logs import Log
from relay_agent.places import Places
from relay_agent.secret import Library
from relay_agent.traffic import Traffic

from builder.standin.behaviour import Behaviour, Fault, Stage
from builder.standin.metadata import Metadata
from builder.standin.provider import Provider
from builder.standin.secrets import SecretsManager
from tests.agent.real_postfix import RealPostfix, real_postfix
from tests.agent.relay_world import SECRET, USER, agent_json, write_json
from tests.waiting import wait_until

pytestmark = pytest.mark.postfix

ROTATIONS = 10
RATE_PER_SECOND = 50
OUT_CF = """\
relayhost = [localhost]:587
smtp_host_lookup = native
smtp_tls_security_level = secure
smtp_tls_connection_reuse = yes
smtp_connection_cache_destinations = static:all
smtp_connection_reuse_count_limit = 100
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = texthash:{map}, fail:no-credentials
smtp_sasl_security_options = noanonymous, noplaintext
smtp_sasl_tls_security_options = noanonymous
smtp_sasl_mechanism_filter = plain, login
smtp_destination_concurrency_failed_cohort_limit = 100
minimal_backoff_time = 2s
queue_run_delay = 2s
maximal_backoff_time = 4s
"""
OUT_SERVICES = """\
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
tlsproxy unix - - n - 0 tlsproxy
"""


class Sender:
    """A client that sends at a steady rate and remembers what was accepted."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.accepted: list[str] = []
        self.refused: list[str] = []

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        started, number = time.monotonic(), 0
        while not self._stopping.is_set():
            with smtplib.SMTP(self._address, 25, local_hostname="app", timeout=30) as client:
                for _ in range(RATE_PER_SECOND):
                    self._stopping.wait(max(0.0, started + number / RATE_PER_SECOND - time.monotonic()))
                    number += 1
                    self._send(client, f"message {number}")

    def _send(self, client: smtplib.SMTP, subject: str) -> None:
        try:
            client.sendmail("app@example.com", ["a@example.org"], f"Subject: {subject}\r\n\r\nx\r\n")
            self.accepted.append(subject)
        except smtplib.SMTPException as error:
            self.refused.append(str(error))


@pytest.fixture
def relay(provider: Provider, secrets: SecretsManager, metadata: Metadata) -> Iterator[RealPostfix]:
    with real_postfix() as real:
        main_cf = real.config / "main.cf"
        lines = [
            line for line in main_cf.read_text().splitlines() if not line.startswith(("relayhost", "smtp_"))
        ]
        main_cf.write_text("\n".join(lines) + "\n" + OUT_CF.format(map=real.places.sasl_map))
        with (real.config / "master.cf").open("a") as master_cf:
            master_cf.write(OUT_SERVICES)
        boot = {
            "schema": 1,
            "endpoint": secrets.endpoint,
            "imds_endpoint": metadata.endpoint,
            "upstream": {"port": provider.port, "ca_pem": provider.ca_pem},
        }
        real.places.agent_json.parent.mkdir(parents=True)
        real.places.machine_id.write_text("0123\n")
        write_json(real.places.agent_json, agent_json(poll_seconds=1))
        write_json(real.places.boot_json, boot)
        yield real


def start_agent(places: Places, real: RealPostfix) -> tuple[Agent, Board, threading.Thread]:
    log = Log()
    board = Board(places, Traffic(), version="test")
    agent = Agent(places, board, Door(places, real.postfix, log), log, World(places, Library()).connect)
    thread = threading.Thread(target=agent.run)
    thread.start()
    return agent, board, thread


def rotate(provider: Provider, secrets: SecretsManager, places: Places, number: int) -> None:
    """Do as a rotation does: the new password works, then the secret has it, later the old one ends."""
    password = f"password-number-{number:04d}"
    provider.set_password(USER, password, keep_old=True)
    secrets.rotate(SECRET, {"username": USER, "password": password})
    wait_until(lambda: password in places.sasl_map.read_text(), 20, "the new password is not in use")
    time.sleep(0.5)
    provider.forget_old_passwords(USER)


def test_ten_rotations_under_load_lose_bounce_and_double_nothing(
    relay: RealPostfix, provider: Provider, secrets: SecretsManager, capsys: pytest.CaptureFixture[str]
) -> None:
    places = relay.places
    provider.set_password(USER, "password-number-0000")
    secrets.put(SECRET, {"username": USER, "password": "password-number-0000"})
    agent, board, thread = start_agent(places, relay)
    try:
        wait_until(lambda: board.state == "ready", 60, str(board.readiness()))
        master = (relay.root / "spool/pid/master.pid").read_text()
        with Sender(relay.address) as sender:
            for number in range(1, ROTATIONS + 1):
                rotate(provider, secrets, places, number)
        wait_until(lambda: provider.counts.messages >= len(sender.accepted), 60, str(provider.counts))
    finally:
        agent.stop()
        thread.join(10)
    arrived = Counter(message.subject for message in provider.messages)
    assert sender.refused == []
    assert len(sender.accepted) > ROTATIONS * RATE_PER_SECOND / 2
    assert set(arrived) == set(sender.accepted)
    assert set(arrived.values()) == {1}
    assert all(message.sender == "app@example.com" for message in provider.messages)
    assert provider.leaks == ()
    log = (relay.root / "mail.log").read_text()
    assert "status=bounced" not in log
    # One for the port; queue runs would hide that Postfix was not told of a password.
    assert log.count(" reload -- version ") > ROTATIONS
    assert (relay.root / "spool/pid/master.pid").read_text() == master
    counts = json.loads(places.status_json.read_text())["upstreams"][0]["counts"]
    assert counts["rotations"] == ROTATIONS
    assert "password-number" not in capsys.readouterr().out
    assert not Path(places.root / "core").exists()


def test_a_delivery_that_began_with_the_old_password_does_not_wait_for_a_queue_run(
    relay: RealPostfix, provider: Provider, secrets: SecretsManager
) -> None:
    """It fails after the reload and the first flush; the next queue run would be five minutes away."""
    places, main_cf = relay.places, relay.config / "main.cf"
    main_cf.write_text(re.sub(r"(_time|_delay) = \ds", r"\1 = 300s", main_cf.read_text()))
    provider.set_password(USER, "password-number-0000")
    secrets.put(SECRET, {"username": USER, "password": "password-number-0000"})
    agent, board, thread = start_agent(places, relay)
    try:
        wait_until(lambda: board.state == "ready", 60, str(board.readiness()))
        provider.set_password(USER, "password-number-0001")
        provider.next_sessions(1, Behaviour(Fault.SLOW, stage=Stage.AUTH, seconds=6))
        sessions = len(provider.sessions)
        relay.send()
        wait_until(lambda: len(provider.sessions) > sessions, 10, "the delivery does not begin")
        secrets.rotate(SECRET, {"username": USER, "password": "password-number-0001"})
        wait_until(lambda: "0001" in places.sasl_map.read_text(), 5, "the new password is not in use")
        wait_until(lambda: "535" in (relay.root / "mail.log").read_text(), 20, "the delivery does not fail")
        assert provider.counts.messages == 0
        wait_until(lambda: provider.counts.messages == 1, 20, "it waits for a queue run")
    finally:
        agent.stop()
        thread.join(10)

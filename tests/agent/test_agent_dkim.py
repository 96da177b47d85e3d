"""Tests of relay_agent.dkim and milter: keys from secrets, a signer that must sign before port 25 opens."""

from __future__ import annotations

import io
import json
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_agent import milter
from relay_agent.dkim import Signer, read_plan
from relay_agent.logs import Log
from relay_agent.places import Places
from relay_agent.secret import SecretVersion
from relay_agent.trouble import Trouble

from tests.agent.relay_world import agent_json, write_json
from tests.agent.scripted_milter import PLAN, Milter, rsa_key
from tests.fakes import FakeTool, FakeTools


@pytest.fixture(scope="module")
def pem() -> str:
    return rsa_key(2048)


class World:
    """A signer whose secrets, milter and clock the test makes."""

    def __init__(self, places: Places, fake_tool: FakeTools, pem: str) -> None:
        self.places, self.now, self.pem = places, 0.0, pem
        self.secrets: dict[str, Any] = {
            "relay/dkim": {"private_key": pem},
            "relay/dkim-b": {"private_key": pem},
        }
        self.version, self.fetches = "v1", 0
        self.trouble: Trouble | None = None
        self.log = io.StringIO()
        self.systemctl: FakeTool = fake_tool("systemctl")
        for folder in ("keys", "milter"):
            (places.root / "run/relay-dkim" / folder).mkdir(parents=True)
        self.milter = Milter(
            places.root / "run/relay-dkim/milter/socket", {"example.com": "s1", "b.example": "s2"}
        )
        self.plan({})

    def plan(self, changes: dict[str, Any]) -> None:
        write_json(self.places.agent_json, agent_json(dkim={**PLAN, **changes}))
        plan = read_plan(self.places)
        assert plan is not None
        self.files = [key.file for key in plan.keys]
        self.signer = Signer(
            plan, Log(self.log), fetch=self.fetch, poll_seconds=60, owner="root", monotonic=lambda: self.now
        )

    def fetch(self, secret: str) -> SecretVersion:
        self.fetches += 1
        if self.trouble:
            raise self.trouble
        value = self.secrets[secret]
        return SecretVersion(value if isinstance(value, str) else json.dumps(value), self.version, 1.0)

    def check(self, seconds: float = 61) -> str:
        self.now += seconds
        trouble = self.signer.check()
        return trouble.code if trouble else ""


@pytest.fixture
def world(places: Places, fake_tool: FakeTools, pem: str, tmp_path: Path) -> Iterator[World]:
    world = World(places, fake_tool, pem)
    yield world
    world.milter.stop()
    for line in world.log.getvalue().splitlines():
        assert "PRIVATE KEY" not in line
        json.loads(line)


def test_an_image_that_does_not_sign_has_no_plan(places: Places) -> None:
    assert read_plan(places) is None
    write_json(places.agent_json, agent_json())
    assert read_plan(places) is None


@pytest.mark.parametrize(
    "wrong", [{"unit": "x y"}, {"keys": []}, {"keys": [{"domain": "a"}]}, {"socket": None}]
)
def test_a_wrong_plan_is_named(places: Places, wrong: dict[str, Any]) -> None:
    values = {key: value for key, value in {**PLAN, **wrong}.items() if value is not None}
    write_json(places.agent_json, agent_json(dkim=values))
    with pytest.raises(Trouble, match="`dkim` in agent.json"):
        read_plan(places)


def test_keys_are_written_and_the_signer_is_started_and_proved(world: World) -> None:
    world.milter.start()
    assert world.check() == ""
    assert [path.read_text() for path in world.files] == [world.pem, world.pem]
    assert {stat.S_IMODE(path.stat().st_mode) for path in world.files} == {0o600}
    assert world.systemctl.calls == [["--no-block", "reload-or-restart", "relay-dkim.service"]]
    assert world.milter.messages == 2
    assert not world.signer.blocks


def test_the_key_is_in_no_argument_and_no_status(world: World, fake_tool: FakeTools) -> None:
    world.milter.start()
    world.check()
    status = world.signer.as_json()
    assert "PRIVATE" not in json.dumps(status)
    assert status["keys"][0]["name"] == "s1._domainkey.example.com"
    public = subprocess.run(
        ["openssl", "pkey", "-pubout"], input=world.pem, capture_output=True, text=True, check=True
    ).stdout
    body = "".join(public.splitlines()[1:-1])
    assert status["keys"][0]["record"] == f"v=DKIM1; k=rsa; p={body}"


def test_until_every_domain_is_signed_no_mail_may_come_in(world: World) -> None:
    assert world.signer.blocks
    assert world.check() == "dkim-down"
    assert world.signer.blocks
    world.milter.start()
    world.milter.behaviour = "unsigned"
    assert world.check(2) == "dkim-unsigned"
    assert world.signer.blocks
    world.milter.behaviour = "tempfail"
    assert world.check(2) == "dkim-unsigned"
    world.milter.behaviour = "sign"
    assert world.check(2) == ""
    assert not world.signer.blocks


def test_a_signature_of_another_name_does_not_count(world: World) -> None:
    world.milter.domains["b.example"] = "old"
    world.milter.start()
    assert world.check() == "dkim-unsigned"
    assert world.signer.trouble is not None
    assert "signed as old._domainkey.b.example" in world.signer.trouble.message


def test_who_prefers_unsigned_mail_is_not_blocked(world: World) -> None:
    world.plan({"must_sign": False})
    assert world.check() == "dkim-down"
    assert not world.signer.blocks


def test_a_signer_that_crashes_is_started_again_before_the_port_is_closed(world: World) -> None:
    world.milter.start()
    world.check()
    world.milter.stop()
    assert world.check(16) == "dkim-down"
    assert not world.signer.blocks
    assert len(world.systemctl.calls) == 1
    world.check(3)
    assert world.systemctl.calls[-1][1] == "reload-or-restart"
    assert not world.signer.blocks
    world.check(9)
    assert world.signer.blocks
    assert world.systemctl.calls[-1][1] == "restart"
    world.milter.start()
    assert world.check(3) == ""
    assert not world.signer.blocks


@pytest.mark.parametrize(
    ("code", "asked"), [("endpoint-slow", 1), ("secret-missing", 2), ("endpoint-error", 2)]
)
def test_a_round_ends_at_the_first_key_when_nobody_answers(world: World, code: str, asked: int) -> None:
    """With many keys each would wait for the same timeout; what is wrong with one secret is not so."""
    world.trouble = Trouble(code, "no")
    assert world.check() == code
    assert world.fetches == asked


def test_a_new_version_is_written_and_the_signer_reloaded(world: World) -> None:
    world.milter.start()
    world.check()
    new = rsa_key(1024)
    world.version, world.secrets["relay/dkim"] = "v2", {"private_key": new}
    assert world.check() == ""
    assert world.files[0].read_text() == new
    assert len(world.systemctl.calls) == 2
    assert set(world.files[0].parent.iterdir()) == set(world.files)
    world.check()
    assert len(world.systemctl.calls) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"private_key": None},
        {"private_key": "hunter22"},
        {"private_key": "-----BEGIN PRIVATE KEY-----\nhunter22\n-----END PRIVATE KEY-----\n"},
        {"private_key": "-----BEGIN PRIVATE KEY-----\nhunter22\ud800"},
        ["hunter22"],
        "[" * 100_000,
        "too short",
        "elliptic",
    ],
)
def test_a_wrong_secret_is_named_and_the_key_in_use_stays(world: World, wrong: Any) -> None:
    world.milter.start()
    world.check()
    if wrong == "too short":
        wrong = {"private_key": rsa_key(512)}
    if wrong == "elliptic":
        command = ["openssl", "genpkey", "-algorithm", "ed25519"]
        wrong = {"private_key": subprocess.run(command, capture_output=True, text=True, check=True).stdout}
    world.version, world.secrets["relay/dkim"] = "v2", wrong
    assert world.check() == "secret-shape"
    assert world.files[0].read_text() == world.pem
    assert not world.signer.blocks
    assert "hunter22" not in str(world.signer.as_json())


def test_an_agent_that_is_started_again_without_its_secrets_goes_on_signing(world: World) -> None:
    world.milter.start()
    world.check()
    world.plan({})
    world.trouble = Trouble("endpoint-unreachable", "no network")
    assert world.check() == "endpoint-unreachable"
    assert not world.signer.blocks


def test_a_key_that_somebody_removed_comes_back(world: World) -> None:
    world.milter.start()
    world.check()
    world.files[0].unlink()
    assert world.check() == ""
    assert world.files[0].read_text() == world.pem


def test_trouble_is_said_once(world: World) -> None:
    world.trouble = Trouble("secret-missing", "no such secret")
    for _ in range(5):
        world.check()
    assert world.log.getvalue().count("no such secret") == 1


@pytest.mark.parametrize("answer", [b"", b"\0\0\0\0", b"\xff\xff\xff\xffx", b"\0\0"])
def test_what_is_no_milter_is_down(places: Places, answer: bytes) -> None:
    path = places.run_dir / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(100)
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Trouble) as raised:
            milter.signature(path, "example.com")
        thread.join()
    assert raised.value.code == "dkim-down"

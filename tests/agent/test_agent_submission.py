"""Tests of relay_agent.submission: users and certificate from a secret, a port that opens with both."""

from __future__ import annotations

import io
import json
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from relay_agent.logs import Log
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.secret import SecretVersion
from relay_agent.submission import Submission, read_plan
from relay_agent.trouble import Trouble

from tests.agent.relay_world import FakePostfix, agent_json, write_json
from tests.fakes import FakeTool, FakeTools

ENTRY = "submission inet n - n - - smtpd -o smtpd_sasl_auth_enable=yes"
PLAN = {
    "service": "submission",
    "master_cf": ENTRY,
    "secret": "relay/users",
    "certificate": "secret",
    "certificate_file": "/run/relay/submission.pem",
    "users_file": "/run/relay-users/sasldb2",
    "realm": "example.com",
    "port": 587,
}
KEY = "-----BEGIN PRIVATE KEY-----\nkeykeykey\n-----END PRIVATE KEY-----\n"
CHAIN = "-----BEGIN CERTIFICATE-----\nchain\n-----END CERTIFICATE-----\n"
SECRET: dict[str, Any] = {"users": {"app": "hunter22-app", "cron": "hunter22-cron"}, "certificate": CHAIN}
SECRET["private_key"] = KEY
# Keeps what it is told in the file that it is given, as the real one does in its database.
SASLPASSWD = 'read -r password; echo "$7:$password" >>"$4"'


class World:
    """A submission port whose secret and clock the test makes."""

    def __init__(self, places: Places, postfix: FakePostfix, fake_tool: FakeTools) -> None:
        self.places, self.postfix = places, postfix
        self.now, self.version = 0.0, "v1"
        self.secret: dict[str, Any] | str = dict(SECRET)
        self.trouble: Trouble | None = None
        self.log = io.StringIO()
        state = postfix.folder
        script = f"""\
case "$1 $2" in
"-M submission/inet") [ -e {state}/submission ] && echo 'submission inet n - n - - smtpd' ;;
"-Me submission"*) touch {state}/submission ;;
"-MX submission/inet") rm -f {state}/submission ;;
esac"""
        self.postconf: FakeTool = fake_tool("postconf", script)
        self.saslpasswd = fake_tool("saslpasswd2", SASLPASSWD)
        (places.root / "run/relay-users").mkdir()
        self.plan({})

    def plan(self, changes: dict[str, Any]) -> None:
        write_json(self.places.agent_json, agent_json(submission={**PLAN, **changes}))
        plan = read_plan(self.places)
        assert plan is not None
        self.submission = Submission(
            plan,
            Postfix(self.places),
            Log(self.log),
            fetch=self.fetch,
            hostname="relay.example.com",
            poll_seconds=60,
            group="root",
            monotonic=lambda: self.now,
        )
        self.users, self.certificate = plan.users_file, plan.certificate_file

    def fetch(self, secret: str) -> SecretVersion:
        assert secret == "relay/users"
        if self.trouble:
            raise self.trouble
        text = self.secret if isinstance(self.secret, str) else json.dumps(self.secret)
        return SecretVersion(text, self.version, 1.0)

    def check(self, *, may_open: bool = True) -> None:
        self.now += 61
        self.submission.check(may_open=may_open)

    @property
    def is_open(self) -> bool:
        return (self.postfix.folder / "submission").exists()


@pytest.fixture
def world(places: Places, postfix_programs: FakePostfix, fake_tool: FakeTools) -> Iterator[World]:
    world = World(places, postfix_programs, fake_tool)
    yield world
    for line in world.log.getvalue().splitlines():
        assert "hunter22" not in line
        json.loads(line)


def test_an_image_without_submission_has_no_plan(places: Places) -> None:
    assert read_plan(places) is None
    write_json(places.agent_json, agent_json())
    assert read_plan(places) is None


def test_the_port_opens_with_users_and_certificate(world: World) -> None:
    world.check()
    assert world.is_open
    assert ["-Me", f"submission/inet={ENTRY}"] in world.postconf.calls
    assert world.users.read_text() == "app:hunter22-app\ncron:hunter22-cron\n"
    assert stat.S_IMODE(world.users.stat().st_mode) == 0o640
    assert world.certificate.read_text() == KEY + CHAIN
    assert stat.S_IMODE(world.certificate.stat().st_mode) == 0o600
    assert world.submission.as_json() == {
        "port": 587,
        "open": True,
        "secret": "relay/users",
        "version_id": "v1",
        "users": 2,
        "reason": None,
    }


def test_passwords_are_not_in_arguments(world: World) -> None:
    world.check()
    assert world.saslpasswd.calls[0][:3] == ["-p", "-c", "-f"]
    assert "hunter22" not in str(world.saslpasswd.calls)


def test_it_stays_closed_while_the_relay_may_not_accept(world: World) -> None:
    world.check(may_open=False)
    assert not world.is_open
    world.check()
    assert world.is_open
    world.check(may_open=False)
    assert not world.is_open


def test_a_new_version_replaces_the_users_whole(world: World) -> None:
    world.check()
    reloads = world.postfix.reloads
    world.version, world.secret = "v2", {**SECRET, "users": {"app": "hunter22-new"}}
    world.check()
    assert world.users.read_text() == "app:hunter22-new\n"
    assert world.postfix.reloads == reloads + 1
    assert list(world.users.parent.iterdir()) == [world.users]
    world.check()
    assert world.postfix.reloads == reloads + 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": {}},
        {"users": ["app"]},
        {"users": {"a b": "hunter22-app"}},
        {"users": {"-f": "hunter22-app"}},
        {"users": {"app": "hunter2"}},
        {"users": {"app": "hunter22\nx"}},
        {"users": {"app": 12345678}},
        {"private_key": None},
        {"certificate": "hunter22"},
        {"certificate": "-----BEGIN CERTIFICATE-----\nhunter22\ud800"},
        "hunter22",
        "[" * 100_000,
    ],
)
def test_a_wrong_secret_keeps_it_closed_and_is_named(world: World, wrong: dict[str, Any] | str) -> None:
    world.secret = wrong if isinstance(wrong, str) else {**SECRET, **wrong}
    world.check()
    assert not world.is_open
    reason = world.submission.as_json()["reason"]
    assert reason["code"] == "secret-shape"
    assert "hunter2" not in str(reason)


def test_a_bad_new_version_leaves_the_old_users_in_place(world: World) -> None:
    world.check()
    world.version, world.secret = "v2", {"users": {}}
    world.check()
    assert world.is_open
    assert "hunter22-app" in world.users.read_text()
    assert world.submission.version_id == "v1"


def test_trouble_is_said_once_and_tried_again(world: World) -> None:
    world.trouble = Trouble("secret-missing", "no such secret")
    for _ in range(5):
        world.check()
    assert world.log.getvalue().count("no such secret") == 1
    world.trouble = None
    world.check()
    assert world.is_open


def test_after_a_reboot_the_port_is_closed_until_its_files_are_back(world: World) -> None:
    (world.postfix.folder / "submission").touch()
    world.trouble = Trouble("endpoint-unreachable", "no network yet")
    world.check()
    assert not world.is_open


def test_a_program_that_fails_leaves_no_half_database(world: World, fake_tool: FakeTools) -> None:
    fake_tool("saslpasswd2", "echo broken >&2; exit 1")
    world.check()
    assert list(world.users.parent.iterdir()) == []
    assert world.submission.as_json()["reason"]["code"] == "submission-users"


def test_an_instance_makes_its_own_certificate_once(world: World) -> None:
    world.plan({"certificate": "self_signed"})
    world.secret = {"users": {"app": "hunter22-app"}}
    world.check()
    pem = world.certificate.read_text()
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName"],
        input=pem,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "DNS:relay.example.com" in shown.stdout
    assert "PRIVATE KEY" in pem
    world.version = "v2"
    world.check()
    assert world.certificate.read_text() == pem


@pytest.mark.parametrize("change", [{"service": "smtp"}, {"master_cf": "a\nb"}, {"port": "x"}])
def test_a_wrong_plan_is_refused(places: Places, change: dict[str, Any]) -> None:
    write_json(places.agent_json, agent_json(submission={**PLAN, **change}))
    with pytest.raises(Trouble, match="submission"):
        read_plan(places)

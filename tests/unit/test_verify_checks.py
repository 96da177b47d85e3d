"""Each check passes on what a good relay shows and fails on what a bad one does."""

from __future__ import annotations

import base64
import re
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from relay_agent.credential import ses_smtp_v4

from builder.config import RelayConfig
from builder.config.policy import Firewall
from builder.errors import BuilderError
from builder.launch import Address
from builder.presets import load_preset
from builder.process import Finished
from builder.render.routing import SASL_MAP
from builder.standin.sample import SampleCredential, derive_ses_password, sample_credential
from builder.standin.stack import StandIns
from builder.verify import clone, fresh, restart
from builder.verify.check import Check, check
from builder.verify.relay import CheckFailed, Relay, greeting
from builder.verify.world import boot_user_data, make_stand_ins, sample_logins

CONFIG = RelayConfig(preset="ses", region="us-east-1")
LOGINS = sample_logins(CONFIG)
CREDENTIAL = LOGINS.first
GOOD_MAP = f"email-smtp.us-east-1.amazonaws.com {CREDENTIAL.username}:{CREDENTIAL.password}"


class AnswerGuest:
    """A guest whose commands are answered from a table: pattern → output, or an exit code."""

    def __init__(self, answers: Mapping[str, str], smtp: Address = ("127.0.0.1", 9)) -> None:
        self.answers = dict(answers)
        self.ran: list[str] = []
        self.smtp_address = smtp
        self.outside = smtp
        self.health_address = ("127.0.0.1", 9)
        self.time_to_ready: float | None = 12.5
        self.disk = Path("/nowhere")
        self.pages: dict[str, tuple[int, str]] = {}

    def run(self, command: str, **_options: Any) -> Finished:
        self.ran.append(command)
        for pattern, output in self.answers.items():
            if re.search(pattern, command):
                return Finished((command,), 0, output, "")
        return Finished((command,), 0, "", "")

    def health(self, path: str = "/readyz") -> tuple[int, str]:
        return self.pages.get(path, (200, '{"state": "ready"}'))

    def wait_ready(self, *, timeout_seconds: float = 300) -> float:
        return 12.5

    def wait_ssh(self, *, timeout_seconds: float = 300) -> float:
        return 10.0

    def add_outside_address(self) -> Address:
        return self.outside

    def reboot(self, *, timeout_seconds: float = 300) -> None:
        self.ran.append("reboot")

    def power_cut(self) -> None:
        self.ran.append("power cut")

    def stop(self) -> None:
        self.ran.append("stop")

    def save_logs(self, folder: Path) -> None:
        self.ran.append(f"logs to {folder.name}")


@pytest.fixture
def stand_ins() -> StandIns:
    """The stand-ins, not started: nothing in these tests connects to them."""
    return make_stand_ins(CONFIG, LOGINS)


def _relay(guest: AnswerGuest, stand_ins: StandIns, config: RelayConfig = CONFIG) -> Relay:
    return Relay(guest, stand_ins, config, LOGINS)


Serve = Callable[[Mapping[str, str]], Address]


@pytest.fixture
def smtp() -> Iterator[Serve]:
    """Return a function that starts an SMTP server which answers each verb from a table."""
    running: list[socketserver.ThreadingTCPServer] = []

    def serve(replies: Mapping[str, str]) -> Address:
        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                if "greeting" in replies:
                    self.wfile.write(f"{replies['greeting']}\r\n".encode())
                for line in self.rfile:
                    verb = line.decode().split()[0].upper()
                    if verb == "QUIT":
                        self.wfile.write(b"221 bye\r\n")
                        return
                    self.wfile.write(f"{replies.get(verb, '250 2.0.0 ok')}\r\n".encode())

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        return ("127.0.0.1", server.server_address[1])

    yield serve
    for server in running:
        server.shutdown()
        server.server_close()


# --- the credential


def _credential_answers(**changes: str) -> dict[str, str]:
    return {
        r"stat -f": changes.get("kind", "tmpfs"),
        r"stat -c": changes.get("facts", "600 root:root"),
        rf"^cat {SASL_MAP}": changes.get("content", GOOD_MAP),
        r"swapon": changes.get("swap", ""),
        r"grep -rlaF": changes.get("found", ""),
    }


def test_a_credential_on_tmpfs_alone_passes(stand_ins: StandIns) -> None:
    evidence = fresh.credential_on_tmpfs.run(_relay(AnswerGuest(_credential_answers()), stand_ins))
    assert evidence.startswith(f"{SASL_MAP}: tmpfs, 600 root:root")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "ext2/ext3"}, "is on ext2/ext3"),
        ({"facts": "644 root:root"}, "expected 600 root:root"),
        ({"facts": "600 postfix:postfix"}, "expected 600 root:root"),
        ({"content": "host user:old"}, "does not hold the current password"),
        ({"swap": "/swapfile file 1G"}, "swaps"),
        ({"found": "/var/lib/cloud/instance/user-data.txt\nthe journal\n"}, "user-data.txt, the, journal"),
    ],
)
def test_a_credential_elsewhere_fails(stand_ins: StandIns, changes: dict[str, str], said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        fresh.credential_on_tmpfs.run(_relay(AnswerGuest(_credential_answers(**changes)), stand_ins))


def test_a_credential_on_a_health_page_fails(stand_ins: StandIns) -> None:
    guest = AnswerGuest(_credential_answers())
    guest.pages["/metrics"] = (200, f'relay_login{{password="{CREDENTIAL.password}"}} 1')
    with pytest.raises(CheckFailed, match="shown by /metrics"):
        fresh.credential_on_tmpfs.run(_relay(guest, stand_ins))


def test_the_search_for_a_credential_does_not_put_it_into_arguments(stand_ins: StandIns) -> None:
    guest = AnswerGuest(_credential_answers())
    fresh.credential_on_tmpfs.run(_relay(guest, stand_ins))
    assert not any(CREDENTIAL.password in command for command in guest.ran)


# --- the closed relay

INSIDE = {"greeting": "220 relay ESMTP"}


def _closed(
    outside: Address, inside: Address, stand_ins: StandIns, *, firewall: bool = False, asked: bool = False
) -> str:
    guest = AnswerGuest({"nft list set": "table inet relay" if firewall else ""}, smtp=inside)
    guest.outside = outside
    config = CONFIG.model_copy(update={"firewall": Firewall(enabled=asked or firewall)})
    return fresh.closed_relay.run(_relay(guest, stand_ins, config))


def test_an_outsider_who_gets_554_at_rcpt_passes(smtp: Serve, stand_ins: StandIns) -> None:
    outside = smtp({**INSIDE, "RCPT": "554 5.7.1 Relay access denied"})
    evidence = _closed(outside, smtp(INSIDE), stand_ins)
    assert "Postfix: 554 5.7.1 Relay access denied" in evidence


@pytest.mark.parametrize("reply", ["250 2.1.5 ok", "451 4.7.1 try again later"])
def test_an_open_relay_fails(smtp: Serve, stand_ins: StandIns, reply: str) -> None:
    with pytest.raises(CheckFailed, match="expected 5xx before DATA"):
        _closed(smtp({**INSIDE, "RCPT": reply}), smtp(INSIDE), stand_ins)


def test_a_relay_that_refuses_everybody_fails(smtp: Serve, stand_ins: StandIns) -> None:
    closed = {**INSIDE, "RCPT": "554 5.7.1 Relay access denied"}
    with pytest.raises(CheckFailed, match="from inside `networks` got: 554"):
        _closed(smtp(closed), smtp(closed), stand_ins)


def test_a_firewall_that_lets_an_outsider_in_fails(smtp: Serve, stand_ins: StandIns) -> None:
    outside = smtp({**INSIDE, "RCPT": "554 5.7.1 Relay access denied"})
    with pytest.raises(CheckFailed, match="the firewall lets an outsider in"):
        _closed(outside, smtp(INSIDE), stand_ins, firewall=True)


def test_a_firewall_that_was_asked_for_and_is_not_there_fails(smtp: Serve, stand_ins: StandIns) -> None:
    outside = smtp({**INSIDE, "RCPT": "554 5.7.1 Relay access denied"})
    with pytest.raises(CheckFailed, match="`inet relay` is missing"):
        _closed(outside, smtp(INSIDE), stand_ins, asked=True)


def test_no_listener_is_no_greeting() -> None:
    assert greeting(("127.0.0.1", 9), timeout_seconds=1) == ""


# --- restart and clones


def test_every_alignment_of_base64_is_searched_for() -> None:
    forms = restart._encoded({"the password": b"CanaryCanary"}).values()
    for before in range(9):
        whole = base64.b64encode(b"x" * before + b"CanaryCanary" + b"y" * 5)
        assert any(form in whole for form in forms)


FIVE = set("ABCDE")


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that says what is queued each time that the reboot check looks."""
    monkeypatch.setattr(restart, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(Relay, "send", lambda _relay, count=1: ["subject"] * count)
    monkeypatch.setattr(Relay, "wait_greeting", lambda _relay, timeout_seconds: "220 relay")
    monkeypatch.setattr(Relay, "misbehave", lambda _relay, *_behaviours: None)

    def show(*queues: set[str]) -> None:
        each = iter(queues)
        monkeypatch.setattr(restart, "_queue_ids", lambda _relay: next(each))

    return show


def test_a_message_that_a_reboot_lost_fails(stand_ins: StandIns, queued: Callable[..., None]) -> None:
    queued(set(), FIVE, FIVE, FIVE - {"E"}, FIVE - {"E"})
    with pytest.raises(CheckFailed, match="1 of 5 queued messages are gone"):
        restart.reboot.run(_relay(AnswerGuest({}), stand_ins))


def test_a_reboot_with_too_few_queued_messages_fails(
    stand_ins: StandIns, queued: Callable[..., None]
) -> None:
    queued({"E"}, FIVE, FIVE)
    with pytest.raises(CheckFailed, match="4 new messages are queued, expected 5"):
        restart.reboot.run(_relay(AnswerGuest({}), stand_ins))


def test_a_delivered_message_may_go_in_a_reboot(stand_ins: StandIns, queued: Callable[..., None]) -> None:
    queued({"delivered"}, {*FIVE, "delivered"}, FIVE, FIVE, FIVE)
    guest = AnswerGuest({})
    guest.pages["/readyz"] = (200, "degraded")
    assert restart.reboot.run(_relay(guest, stand_ins)) == (
        "port 25 open, 5 messages kept; /readyz: 200 degraded"
    )


def test_a_message_between_two_queues_is_not_lost(stand_ins: StandIns, queued: Callable[..., None]) -> None:
    queued(set(), FIVE - {"A"}, FIVE, FIVE, FIVE - {"B"})
    guest = AnswerGuest({})
    guest.pages["/readyz"] = (200, "degraded")
    assert "5 messages kept" in restart.reboot.run(_relay(guest, stand_ins))


IDENTITY = {"machine-id": "0123", "ssh_host": "AAAAC3", "hostname": "relay"}


def test_clones_with_their_own_identity_pass(stand_ins: StandIns) -> None:
    relay = _relay(AnswerGuest(IDENTITY), stand_ins)
    relay.identity = {"machine id": "4567", "host key": "BBBB"}
    assert "host keys differ" in clone.clones_differ.run(relay)


def test_clones_that_share_a_host_key_fail(stand_ins: StandIns) -> None:
    relay = _relay(AnswerGuest(IDENTITY), stand_ins)
    relay.identity = {"machine id": "4567", "host key": "AAAAC3"}
    with pytest.raises(CheckFailed, match="same host key"):
        clone.clones_differ.run(relay)


def test_a_clone_without_a_host_key_fails(stand_ins: StandIns) -> None:
    relay = _relay(AnswerGuest({**IDENTITY, "ssh_host": ""}), stand_ins)
    with pytest.raises(CheckFailed, match="it has no host key"):
        clone.read_identity(relay)


def test_a_missing_secret_that_is_named_passes(stand_ins: StandIns) -> None:
    guest = AnswerGuest({})
    guest.pages["/readyz"] = (503, '{"reason": {"code": "secret-missing"}, "message": "no `relay/ses`"}')
    assert clone.secret_missing.run(_relay(guest, stand_ins)) == "port 25 closed; /readyz 503: no `relay/ses`"


def test_an_open_port_without_a_secret_fails(stand_ins: StandIns) -> None:
    guest = AnswerGuest({"ss -Hltn": "LISTEN 0 100 0.0.0.0:25"})
    guest.pages["/readyz"] = (503, '{"reason": "no relay/ses"}')
    with pytest.raises(CheckFailed, match="something listens on port 25"):
        clone.secret_missing.run(_relay(guest, stand_ins))


def test_a_reason_that_does_not_name_the_secret_fails(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clone, "_AGENT_SECONDS", 0)
    guest = AnswerGuest({})
    guest.pages["/readyz"] = (503, '{"reason": "something is wrong"}')
    with pytest.raises(CheckFailed, match="names `relay/ses`.*something is wrong"):
        clone.secret_missing.run(_relay(guest, stand_ins))


# --- the frame


@check("explodes")
def explodes(relay: Relay) -> str:
    """Prove that nothing is wrong."""
    raise relay.guest.answers  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "evidence"),
    [
        (CheckFailed("seen\nthis"), "seen\nthis"),
        (BuilderError("first\nsecond"), "first"),
        (ConnectionRefusedError("no"), "ConnectionRefusedError: no"),
    ],
)
def test_what_goes_wrong_in_a_check_becomes_its_result(
    stand_ins: StandIns, error: Exception, evidence: str
) -> None:
    guest = AnswerGuest({})
    guest.answers = error  # type: ignore[assignment]
    result = explodes.result(_relay(guest, stand_ins))
    assert (result.passed, result.evidence) == (False, evidence)


@pytest.mark.parametrize("each", [*fresh.CHECKS, *restart.CHECKS, *clone.CHECKS], ids=lambda each: each.name)
def test_every_check_says_what_it_proves(each: Check) -> None:
    assert each.description
    assert not each.description.startswith("Prove")
    assert not each.description.endswith(".")


# --- what the guest is told, and the sample credential


def test_the_guest_is_told_where_the_stand_ins_are_and_no_secret() -> None:
    with make_stand_ins(CONFIG, LOGINS) as running:
        user_data = boot_user_data(CONFIG, running)
    assert "10.0.2.2 email-smtp.us-east-1.amazonaws.com" in user_data
    assert "10.0.2.2/32" in user_data
    assert not any(value.decode() in user_data for value in CREDENTIAL.traces.values())


def test_the_derivation_is_the_agents() -> None:
    key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    assert derive_ses_password(key, "eu-west-1") == ses_smtp_v4(key, "eu-west-1")


def test_a_sample_of_ses_is_a_key_whose_password_is_derived() -> None:
    assert set(CREDENTIAL.secret) == {"access_key_id", "secret_access_key"}
    assert CREDENTIAL.username == CREDENTIAL.secret["access_key_id"]
    assert CREDENTIAL.password == derive_ses_password(CREDENTIAL.secret["secret_access_key"], "us-east-1")


@pytest.mark.parametrize("name", ["sendgrid", "mailgun", "gmail"])
def test_a_sample_of_each_provider_has_a_login(name: str) -> None:
    sample: SampleCredential = sample_credential(load_preset(name).secret_shapes, None)
    assert sample.username
    assert sample.password.startswith("Canary")
    assert sample.password not in repr(sample)

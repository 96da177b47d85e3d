"""DKIM on a real Postfix and OpenDKIM: what arrives verifies, what cannot be signed is not accepted."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from builder import assets
from builder.conformance.client import Mail, Sent, send_all
from builder.conformance.setups import SETUPS, Bed, running
from builder.conformance.signer import Signer
from builder.releases import Release
from builder.standin.journal import Message
from tests.dkim_records import verified_domain
from tests.rendered import parameters, rendered

pytestmark = pytest.mark.postfix

# What the agent asks the signer before port 25 opens, inside the sandbox.
_AGENT_ASKS = """\
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from relay_agent import milter
from relay_agent.trouble import Trouble
try:
    print(json.dumps(milter.signature(Path("/run/relay-dkim/milter/socket"), sys.argv[2])))
except Trouble as trouble:
    print(json.dumps({"trouble": trouble.code}))
"""


@pytest.fixture(scope="module")
def bed(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with running(SETUPS["dkim"], release, tmp_path_factory.mktemp("dkim")) as started:
        upstream = started.upstreams[0]
        started.relay.set_credentials({upstream.host: f"{upstream.user}:{upstream.password}"})
        yield started


@pytest.fixture
def signer(bed: Bed) -> Signer:
    assert bed.relay.signer is not None
    return bed.relay.signer


def send(bed: Bed, mail: Mail, **more: str) -> Sent:
    (sent,) = send_all(bed.relay.smtp_address, [mail], **more)
    return sent


def delivered(bed: Bed, to: str, sender: str = "app@example.com", content: bytes | None = None) -> Message:
    assert send(bed, Mail((to,), sender=sender, content=content)).reply.startswith("250")
    return arrived(bed, to)


def arrived(bed: Bed, to: str) -> Message:
    provider = bed.upstreams[0].provider
    found = provider.wait_for(
        lambda: [message for message in provider.messages if to in message.recipients], timeout_seconds=20
    )
    return found[0]


def values(message: Message, name: str) -> list[str]:
    return [value for header, value in message.headers if header.lower() == name.lower()]


def test_a_message_arrives_with_a_signature_that_verifies(bed: Bed, signer: Signer) -> None:
    message = delivered(bed, "plain@example.net")
    assert verified_domain(message.content, signer.public_keys) == "example.com"
    assert "s=relay2026;" in values(message, "DKIM-Signature")[0]


def agent_asks(bed: Bed, domain: str) -> dict[str, str]:
    agent = str(assets.folder("cloudinit") / "agent")
    answer: dict[str, str] = json.loads(bed.relay.run([sys.executable, "-c", _AGENT_ASKS, agent, domain]))
    return answer


def test_the_agent_sees_whether_mail_is_signed(bed: Bed, signer: Signer) -> None:
    tags = agent_asks(bed, "news.example.com")
    assert (tags["d"], tags["s"], tags["a"]) == ("news.example.com", "n1", "rsa-sha256")
    assert agent_asks(bed, "other.example") == {"trouble": "dkim-unsigned"}
    signer.break_key("news.example.com")
    signer.reload()
    assert agent_asks(bed, "news.example.com") == {"trouble": "dkim-unsigned"}
    signer.new_key("news.example.com")
    signer.reload()
    assert agent_asks(bed, "news.example.com")["d"] == "news.example.com"
    signer.stop()
    assert agent_asks(bed, "news.example.com") == {"trouble": "dkim-down"}
    signer.start()
    assert agent_asks(bed, "news.example.com")["s"] == "n1"


def test_a_changed_message_does_not_verify(bed: Bed, signer: Signer) -> None:
    message = delivered(bed, "changed@example.net")
    changed = message.content.replace(b"Subject: conformance", b"Subject: something else")
    assert changed != message.content
    assert verified_domain(changed, signer.public_keys) is None


def test_it_is_signed_after_headers_were_stripped_added_and_rewritten(bed: Bed, signer: Signer) -> None:
    content = (
        b"Received: from laptop by mail.corp with ESMTP id 1\r\nUser-Agent: x\r\nX-Relay: forged\r\n"
        b"From: Cron <root@host.internal>\r\nTo: a@example.net\r\nSubject: s\r\n\r\nbody  \r\n\r\n\r\n"
    )
    message = delivered(bed, "rewritten@example.net", "root@host.internal", content)
    assert values(message, "From") == ["Cron <account@example.com>"]
    assert values(message, "User-Agent") == []
    assert values(message, "X-Relay") == ["yes"]
    assert verified_domain(message.content, signer.public_keys) == "example.com"


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        ("a@news.example.com", "news.example.com"),
        ("a@deep.news.example.com", "news.example.com"),
        ("a@shop.example.com", "example.com"),
    ],
)
def test_the_nearest_domain_signs(sender: str, domain: str, bed: Bed, signer: Signer) -> None:
    message = delivered(bed, f"{sender.replace('@', '.')}@example.net", sender)
    assert verified_domain(message.content, signer.public_keys) == domain


def test_other_domains_are_relayed_unsigned(bed: Bed) -> None:
    message = delivered(bed, "other@example.net", "a@other.example")
    assert values(message, "DKIM-Signature") == []


@pytest.mark.parametrize("client", ["10.1.2.3", "IPV6:fd00::5"])
def test_mail_of_every_network_is_signed(client: str, bed: Bed, signer: Signer) -> None:
    to = f"from{len(client)}@example.net"
    assert send(bed, Mail((to,)), client=client).reply.startswith("250")
    assert verified_domain(arrived(bed, to).content, signer.public_keys) == "example.com"


def test_mail_of_programs_on_the_relay_is_signed(bed: Bed, signer: Signer) -> None:
    command = "printf 'From: cron@example.com\\nSubject: s\\n\\nx\\n' | sendmail -f cron@example.com"
    bed.relay.run(["sh", "-c", f"{command} cron@example.net"])
    assert verified_domain(arrived(bed, "cron@example.net").content, signer.public_keys) == "example.com"


def test_eight_bit_text_verifies(bed: Bed, signer: Signer) -> None:
    content = "From: a@example.com\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    content += "Content-Transfer-Encoding: 8bit\r\nSubject: s\r\n\r\nGrüße, and a line of dots\r\n..\r\n"
    message = delivered(bed, "eight@example.net", content=content.encode())
    assert verified_domain(message.content, signer.public_keys) == "example.com"


def test_without_the_signer_mail_waits_at_the_client_and_nothing_is_lost(bed: Bed, signer: Signer) -> None:
    before = delivered(bed, "before@example.net")
    assert values(before, "DKIM-Signature")
    signer.stop()
    try:
        sent = send(bed, Mail(("down@example.net",)))
        assert sent.reply.startswith("451 4.7.1")
        assert sent.accepted == ()
        bed.relay.run(["sh", "-c", "printf 'From: c@example.com\\n\\nx\\n' | sendmail held@example.net"])
        assert [item.queue_name for item in bed.relay.queue()] == ["maildrop"]
    finally:
        signer.start()
    message = delivered(bed, "down@example.net")
    assert verified_domain(message.content, signer.public_keys) == "example.com"
    # What a program had handed in waited in the mail drop; Postfix looks there again every minute.
    bed.relay.reload()
    held = arrived(bed, "held@example.net")
    assert verified_domain(held.content, signer.public_keys) == "example.com"


def test_who_prefers_unsigned_mail_gets_it_while_the_signer_is_down(bed: Bed, signer: Signer) -> None:
    preferred = SETUPS["dkim"].config["dkim"] | {"signer_down": "send_unsigned"}
    files = rendered(**{**SETUPS["dkim"].config, "dkim": preferred})
    wanted = parameters(files["root/etc/postfix/main.cf"])["milter_default_action"]
    bed.relay.set_parameters({"milter_default_action": wanted})
    signer.stop()
    try:
        assert values(delivered(bed, "unsigned@example.net"), "DKIM-Signature") == []
    finally:
        signer.start()
        bed.relay.set_parameters({"milter_default_action": "tempfail"})
    assert values(delivered(bed, "signed-again@example.net"), "DKIM-Signature")


def test_a_key_that_is_none_makes_mail_wait(bed: Bed, signer: Signer) -> None:
    signer.break_key("example.com")
    signer.reload()
    try:
        sent = send(bed, Mail(("broken@example.net",)))
        assert sent.reply.startswith("4")
        assert sent.accepted == ()
        # Another domain's key is still good.
        other = delivered(bed, "whole@example.net", "a@news.example.com")
        assert verified_domain(other.content, signer.public_keys) == "news.example.com"
    finally:
        signer.new_key("example.com")
        signer.reload()
    message = delivered(bed, "mended@example.net")
    assert verified_domain(message.content, signer.public_keys) == "example.com"


def test_a_new_key_is_used_after_a_reload(bed: Bed, signer: Signer) -> None:
    old = dict(signer.public_keys)
    signer.new_key("example.com")
    signer.reload()
    message = delivered(bed, "rotated@example.net")
    assert verified_domain(message.content, signer.public_keys) == "example.com"
    assert verified_domain(message.content, old) is None


_WRITES = """\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from relay_agent.dkim import write_key
for text in ("first", "second"):
    write_key(Path("/run/relay-dkim/keys/tried.pem"), text, "opendkim")
"""


def test_the_capabilities_of_the_agents_unit_are_enough_to_hand_over_a_key(bed: Bed, signer: Signer) -> None:
    cloudinit = assets.folder("cloudinit")
    unit = (cloudinit / "systemd" / "relay-agent.service").read_text()
    line = next(line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet="))
    kept = ",".join("+" + name[4:].lower() for name in line.partition("=")[2].split())
    command = ["setpriv", "--bounding-set", f"-all,{kept}", "--no-new-privs", sys.executable, "-c", _WRITES]
    bed.relay.run([*command, str(cloudinit / "agent")])
    seen = bed.relay.run(
        ["sh", "-c", "cd /run/relay-dkim/keys && stat -c '%U %a' tried.pem && cat tried.pem"]
    )
    assert seen == "opendkim 600\nsecond"
    names = bed.relay.run(["ls", "-A", "/run/relay-dkim/keys"]).split()
    bed.relay.run(["rm", "/run/relay-dkim/keys/tried.pem"])
    assert names == ["example.com.pem", "news.example.com.pem", "tried.pem"]

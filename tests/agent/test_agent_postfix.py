"""Tests of relay_agent.postfix and mailqueue on a real Postfix, also with only the unit's capabilities."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from relay_agent import mailqueue
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.rate import Sessions
from relay_agent.settings import Settings, Shape, Upstream

from tests.agent.real_postfix import RealPostfix, real_postfix
from tests.agent.relay_world import FakePostfix

pytestmark = pytest.mark.postfix

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def real() -> Iterator[RealPostfix]:
    with real_postfix() as instance:
        yield instance


def settings(**changes: object) -> Settings:
    shape = Shape("smtp", ("username", "password"), "{username}", "{password}")
    first = Upstream("primary", "relay.invalid", 2525, "starttls", (shape,), ("plain",), "s", None)
    values = {"preset": "ses", "region": None, "upstreams": (first,), "hostname": None, "networks": ()}
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


def test_port_25_is_opened_and_closed_by_reload_alone(real: RealPostfix) -> None:
    postfix = real.postfix
    master = (real.root / "spool/pid/master.pid").read_text()
    assert postfix.is_running()
    assert not postfix.has_listener()
    postfix.open_port()
    assert postfix.has_listener()
    assert postfix.reload()
    assert postfix.wait_for_banner()
    assert postfix.is_listening()
    postfix.close_port()
    assert not postfix.has_listener()
    assert not postfix.wait_for_banner(timeout_seconds=0.3)
    postfix.open_port()
    postfix.reload()
    assert postfix.wait_for_banner()
    assert (real.root / "spool/pid/master.pid").read_text() == master


def test_the_queue_is_read_with_ages_and_reasons(real: RealPostfix) -> None:
    postfix = real.postfix
    real.run("postconf", "-e", "relayhost=[127.0.0.1]:9")
    postfix.open_port()
    postfix.reload()
    postfix.wait_for_banner()
    real.send(3)
    summary = mailqueue.summarize(mailqueue.read(postfix))
    for _ in range(50):
        if summary.messages["deferred"] == 3:
            break
        time.sleep(0.1)
        summary = mailqueue.summarize(mailqueue.read(postfix))
    assert summary.messages == {"incoming": 0, "active": 0, "deferred": 3, "hold": 0}
    assert summary.reasons == {"connect": 3}
    found = list(mailqueue.read(postfix))
    assert found[0].recipients == ("a@example.org",)
    real.run("postsuper", "-h", found[0].queue_id)
    assert mailqueue.summarize(mailqueue.read(postfix)).messages["hold"] == 1
    postfix.flush()


def test_boot_settings_are_applied_and_only_the_named_port_changes(real: RealPostfix) -> None:
    changed = real.postfix.apply(
        settings(
            boot_hostname="relay-9.example.com", boot_networks=("10.0.0.0/8", "2001:db8::/32"), ca_pem="x"
        )
    )
    assert changed
    assert real.run("postconf", "-h", "myhostname") == "relay-9.example.com"
    assert real.run("postconf", "-h", "relayhost") == "[relay.invalid]:2525, [backup.invalid]:587"
    assert real.run("postconf", "-h", "mynetworks") == ("127.0.0.0/8 [::1]/128 10.0.0.0/8 [2001:db8::]/32")
    assert real.run("postconf", "-h", "smtp_tls_CAfile") == str(real.places.private_ca)
    real.run("postfix", "check")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[relay.invalid]:587, [eu-relay.invalid]:587", "[relay.invalid]:2525, [eu-relay.invalid]:587"),
        ("[relay.invalid], [relay.invalid.example]:587", "[relay.invalid]:2525, [relay.invalid.example]:587"),
        ("relay.invalid:587 [backup.invalid]:587", "relay.invalid:2525 [backup.invalid]:587"),
        # A second account at the same host, as the fallback.
        ("[relay.invalid]:587, [relay.invalid]:465", "[relay.invalid]:2525, [relay.invalid]:465"),
        ("[other.invalid]:587", "[relay.invalid]:2525"),
    ],
)
def test_the_port_of_the_first_provider_changes_and_of_no_other(
    real: RealPostfix, before: str, after: str
) -> None:
    real.run("postconf", "-e", f"relayhost={before}")
    assert real.postfix.apply(settings())
    assert real.run("postconf", "-h", "relayhost") == after


def test_nothing_is_changed_when_boot_json_changes_nothing(real: RealPostfix) -> None:
    before = (real.config / "main.cf").stat().st_mtime_ns
    assert not real.postfix.apply(settings(baked_port=2525))
    assert (real.config / "main.cf").stat().st_mtime_ns == before


def test_a_stopped_postfix_is_seen_as_such(real: RealPostfix) -> None:
    real.run("postfix", "stop")
    assert not real.postfix.is_running()
    assert not real.postfix.reload()


def test_the_capabilities_of_the_unit_are_enough(real: RealPostfix) -> None:
    unit = (ROOT / "cloudinit/systemd/relay-agent.service").read_text()
    line = next(line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet="))
    kept = ",".join("+" + name[4:].lower() for name in line.partition("=")[2].split())
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "cloudinit/agent")!r})
from pathlib import Path
from relay_agent import mailqueue
from relay_agent.places import Places
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.rate import Sessions
places = Places(Path({str(real.root)!r}), smtp_host={real.address!r})
postfix = Postfix(places, config_dir=Path({str(real.config)!r}))
postfix.open_port()
assert postfix.reload() and postfix.wait_for_banner()
assert postfix.is_listening()
postfix.flush()
assert mailqueue.summarize(mailqueue.read(postfix)).total == 0
postfix.close_port()
assert not postfix.wait_for_banner(0.3)
"""
    command = ["setpriv", f"--bounding-set=-all,{kept}", "--no-new-privs", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_queue_that_cannot_be_read_is_said(places: Places, postfix_programs: FakePostfix) -> None:
    postfix_programs.postqueue.path.write_text("#!/bin/sh\nexit 69\n")
    with pytest.raises(Exception, match="postqueue -j"):
        list(mailqueue.read(Postfix(places)))


def test_the_concurrency_of_a_route_is_a_parameter_like_that_of_smtp(real: RealPostfix) -> None:
    real.run("postconf", "-Me", "to-b/unix=to-b unix - - n - - smtp")
    real.run(
        "postconf", "-e", "smtp_destination_concurrency_limit=100", "to-b_destination_concurrency_limit=50"
    )
    sessions = Sessions(real.postfix, {"smtp": 100, "to-b": 50})
    assert not sessions.fit(None)
    assert sessions.fit(0.1)
    assert not sessions.fit(0.1)
    names = [f"to-b_{kind}destination_concurrency" for kind in ("", "initial_")]
    assert real.run("postconf", "-h", f"{names[0]}_limit", names[1]).splitlines() == ["3", "3"]
    assert sessions.fit(None)
    assert real.run("postconf", "-h", f"{names[0]}_limit") == "50"

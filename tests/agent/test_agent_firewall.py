"""Tests of the firewall in the relay: images without one, networks of boot.json, and what relayctl says."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_agent import firewall
from relay_agent.firewall import Plan, networks_of, not_covered, read_sets
from relay_agent.places import Places
from relay_agent.trouble import Trouble

from tests.agent.relay_world import FakePostfix, agent_json, write_json
from tests.agent.relayctl_world import PARAMETERS, Ctl, steps
from tests.agent.scripted_relay import Relay
from tests.fakes import FakeTools
from tests.rendered import rendered
from tests.waiting import wait_until

NONE = {"enabled": False}
BOTH = {"enabled": True, "sets": ["networks", "submission"]}
SUBMISSION = {"secret": "relay/users", "certificate": "self_signed"}
NO_TABLE = """\
/dev/stdin:1:11-15: Error: No such file or directory
flush set inet relay networks4
          ^^^^^
"""


def baked(**more: Any) -> dict[str, Any]:
    """What an image of this relay.yaml knows about its firewall."""
    value: dict[str, Any] = json.loads(rendered(**more)["root/etc/relay/agent.json"])["firewall"]
    return value


@pytest.fixture
def relay(places: Places, postfix_programs: FakePostfix) -> Relay:
    relay = Relay(places, postfix_programs)
    write_json(places.boot_json, {"schema": 1, "networks": ["192.0.2.0/24"]})
    return relay


# -- what is baked


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"enabled": True, "sets": ["networks"]}),
        ({"firewall": NONE, "submission": SUBMISSION}, NONE),
        ({"submission": SUBMISSION}, BOTH),
        (
            {"submission": {**SUBMISSION, "networks": ["10.5.0.0/16"]}},
            {"enabled": True, "sets": ["networks"]},
        ),
    ],
)
def test_the_image_knows_its_firewall(
    asked: dict[str, Any], expected: dict[str, Any], places: Places
) -> None:
    assert baked(**asked) == expected
    write_json(places.agent_json, agent_json(firewall=expected))
    plan = firewall.read_plan(places)
    assert (plan.enabled, list(plan.sets)) == (expected["enabled"], expected.get("sets", []))


@pytest.mark.parametrize("wrong", [[], "yes", {}, {"enabled": True, "sets": ["management"]}])
def test_a_wrong_plan_is_named(places: Places, wrong: Any) -> None:
    write_json(places.agent_json, agent_json(firewall=wrong))
    with pytest.raises(Trouble, match="`firewall` in agent.json"):
        firewall.read_plan(places)


# -- the agent


def test_an_image_without_a_firewall_becomes_ready_with_networks_of_its_own(relay: Relay) -> None:
    write_json(relay.places.agent_json, agent_json(firewall=NONE))
    relay.postfix.nft.path.write_text("#!/bin/sh\nexit 1\n")
    relay.rounds()
    assert relay.state == "ready"
    assert "mynetworks=127.0.0.0/8 [::1]/128 192.0.2.0/24" in relay.postfix.settings


def test_nfts_own_reason_is_shown_and_not_its_carets(relay: Relay, fake_tool: FakeTools) -> None:
    fake_tool("nft", f"cat >&2 <<'END'\n{NO_TABLE}END\nexit 1")
    relay.rounds()
    assert relay.reason == "firewall"
    message = relay.status["reason"]["message"]
    assert message == "The firewall did not take the networks of `boot.json`: No such file or directory"


def test_the_submission_port_follows_the_networks_of_the_relay(relay: Relay) -> None:
    write_json(relay.places.agent_json, agent_json(firewall=BOTH))
    relay.rounds()
    assert (relay.postfix.folder / "nft").read_text().splitlines() == [
        "flush set inet relay networks4",
        "add element inet relay networks4 { 192.0.2.0/24 }",
        "flush set inet relay networks6",
        "flush set inet relay submission4",
        "add element inet relay submission4 { 192.0.2.0/24 }",
        "flush set inet relay submission6",
    ]


_BAKED = (
    '{"nftables": [{"set": {"name": "networks4", "elem": [{"prefix": {"addr": "10.0.0.0", "len": 8}}]}}]}'
)
# What nft keeps: the networks that were added last.
_NFT = """\
case "$1" in
--json) [ -e {sets} ] && cat {sets} || exit 1 ;;
*)
  [ -e {sets} ] || {{ echo 'Error: No such file or directory' >&2; exit 1; }}
  echo >>{folder}/applied
  network=$(sed -n 's/^add element .*{{ \\(.*\\)\\/24 }}/\\1/p')
  echo '{baked}' | sed -e "s/10.0.0.0/$network/" -e 's/"len": 8/"len": 24/' >{sets}
  ;;
esac
"""


def test_networks_of_boot_json_come_back_after_a_restart_of_nftables(
    relay: Relay, fake_tool: FakeTools
) -> None:
    sets, applied = relay.postfix.folder / "sets", relay.postfix.folder / "applied"
    fake_tool("nft", _NFT.format(sets=sets, folder=relay.postfix.folder, baked=_BAKED))
    sets.write_text(_BAKED)
    relay.rounds()
    assert relay.state == "ready"
    assert "192.0.2.0" in sets.read_text()
    relay.rounds(100, seconds=2)
    assert applied.read_text() == "\n"
    sets.write_text(_BAKED)
    relay.rounds(35, seconds=2)
    assert "192.0.2.0" in sets.read_text()
    assert relay.state == "ready"
    assert "lost the networks of boot.json" in relay.log.getvalue()


def test_a_table_that_has_gone_is_said_and_its_networks_come_back_with_it(
    relay: Relay, fake_tool: FakeTools
) -> None:
    sets = relay.postfix.folder / "sets"
    fake_tool("nft", _NFT.format(sets=sets, folder=relay.postfix.folder, baked=_BAKED))
    sets.write_text(_BAKED)
    relay.rounds()
    sets.unlink()
    relay.versions["relay/ses"] = ("v2", "password-2")
    relay.rounds(35, seconds=2)
    assert (relay.state, relay.reason) == ("degraded", "firewall")
    assert relay.map == "localhost user:password-2\n"
    sets.write_text(_BAKED)
    relay.rounds(seconds=2)
    assert relay.state == "ready"
    assert "192.0.2.0" in sets.read_text()


# -- relayctl


def test_status_and_doctor_say_that_the_image_has_no_firewall(ctl: Ctl) -> None:
    write_json(ctl.places.agent_json, agent_json(firewall=NONE))
    text = ctl("status")[1]
    assert "this image has none (`firewall: {enabled: false}` in relay.yaml): every client reaches" in text
    value = json.loads(ctl("status", "--json")[1])
    assert (value["has_firewall"], value["firewall"]) == (False, None)
    found = steps(ctl("doctor", "--offline", "--json")[1])
    assert found["firewall"] == ["ok: this image has none (`firewall: {enabled: false}` in relay.yaml)"]


@pytest.mark.parametrize(
    ("wanted", "allowed", "missing"),
    [
        (["10.1.2.3/32"], ["10.1.2.3"], []),
        (["10.0.0.0/25", "10.0.0.128/25"], ["10.0.0.0/24"], []),
        (["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"], ["10.0.0.0-10.0.2.255"], []),
        (["[2001:db8::]/32", "[2001:db8::1]"], ["2001:db8::/32"], []),
        (["10.0.0.0/8", "192.0.2.0/24"], ["10.1.0.0/16", "192.0.2.0/24"], ["10.0.0.0/8"]),
        (["0.0.0.0/0"], ["::/0"], ["0.0.0.0/0"]),
    ],
)
def test_networks_are_compared_as_networks(wanted: list[str], allowed: list[str], missing: list[str]) -> None:
    found = not_covered(networks_of(wanted), networks_of(allowed))
    assert [str(network) for network in found] == missing


def test_a_mynetworks_that_is_no_list_of_networks_is_said(ctl: Ctl, fake_tool: FakeTools) -> None:
    use_networks(ctl, "cidr:/etc/postfix/mine")
    (line,) = steps(ctl("doctor", "--offline", "--json")[1])["firewall"]
    assert line.startswith("warning: not compared: `mynetworks` is no list of networks")


def use_networks(ctl: Ctl, networks: str) -> None:
    """Let `postconf` show these as mynetworks."""
    script = PARAMETERS.format(state=ctl.postfix.folder)
    ctl.fake_tool("postconf", script.replace("127.0.0.0/8 [::1]/128 10.0.0.0/8", networks))


# -- the real nftables


@pytest.fixture
def real_nft(fake_tool: FakeTools, ctl: Ctl) -> Iterator[None]:
    """`nft` as it is, in a network namespace of its own."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("needs root: nftables in a network namespace")
    ours = Path("/proc/self/ns/net").readlink()
    with subprocess.Popen(["unshare", "--net", "sleep", "300"]) as holder:
        theirs = Path(f"/proc/{holder.pid}/ns/net")
        wait_until(lambda: theirs.readlink() != ours)
        fake_tool("nft", f'exec nsenter --net={theirs} /usr/sbin/nft "$@"')
        yield
        holder.kill()


def load(tmp_path: Path, **more: Any) -> Plan:
    """Load the rendered firewall; return what the agent is told about it."""
    files = rendered(**more)
    path = tmp_path / "nftables.conf"
    path.write_text(files["root/etc/nftables.conf"])
    subprocess.run(["nft", "-f", path], check=True)
    known = json.loads(files["root/etc/relay/agent.json"])["firewall"]
    return Plan(known["enabled"], tuple(known.get("sets", ())))


@pytest.mark.postfix
@pytest.mark.parametrize("own", [None, ["10.5.0.0/16"]])
def test_nftables_gets_the_networks_of_boot_json(
    real_nft: None, tmp_path: Path, own: list[str] | None
) -> None:
    plan = load(tmp_path, submission={**SUBMISSION, "networks": own})
    firewall.allow(plan, ["192.0.2.0/25", "192.0.2.128/25", "192.0.2.7/32", "2001:db8::/32"])
    found = read_sets()
    assert found is not None
    assert (found["networks4"], found["networks6"]) == (["192.0.2.0/24"], ["2001:db8::/32"])
    assert found["submission4"] == (["192.0.2.0/24"] if own is None else own)
    assert found["submission6"] == (["2001:db8::/32"] if own is None else [])
    firewall.allow(plan, ["10.1.0.0/16"])
    assert read_sets() == {
        "networks4": ["10.1.0.0/16"],
        "networks6": [],
        "submission4": ["10.1.0.0/16"] if own is None else own,
        "submission6": [],
    }


@pytest.mark.postfix
def test_nftables_that_was_started_again_gets_the_networks_back(real_nft: None, tmp_path: Path) -> None:
    plan = load(tmp_path, submission=SUBMISSION)
    networks = ["192.0.2.0/25", "192.0.2.128/25", "10.1.2.3/32", "10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24"]
    networks.append("2001:db8::/32")
    firewall.allow(plan, networks)
    assert not firewall.keep(plan, networks)
    load(tmp_path, submission=SUBMISSION)
    assert firewall.keep(plan, networks)
    assert not firewall.keep(plan, networks)


@pytest.mark.postfix
def test_nftables_without_the_table_says_so_in_one_line(real_nft: None, tmp_path: Path) -> None:
    with pytest.raises(Trouble) as caught:
        firewall.allow(Plan(enabled=True, sets=("networks",)), ["192.0.2.0/24"])
    assert "No such file or directory" in caught.value.message
    assert "^" not in caught.value.message
    firewall.allow(load(tmp_path, firewall=NONE), ["192.0.2.0/24"])


@pytest.mark.postfix
def test_doctor_reads_what_nftables_made_of_the_networks(real_nft: None, ctl: Ctl, tmp_path: Path) -> None:
    networks = [
        "10.1.2.3/32",
        "10.2.0.0/24",
        "10.2.1.0/24",
        "10.2.2.0/24",
        "2001:db8::/33",
        "2001:db8:8000::/33",
    ]
    load(tmp_path, networks=networks)
    brackets = " ".join(n if ":" not in n else "[{}]/{}".format(*n.split("/")) for n in networks)
    use_networks(ctl, f"127.0.0.0/8 [::1]/128 {brackets}")
    found = steps(ctl("doctor", "--offline", "--json")[1])
    assert found["firewall"] == ["ok: lets 10.1.2.3/32, 10.2.0.0/23, 10.2.2.0/24, 2001:db8::/32 to port 25"]
    use_networks(ctl, f"127.0.0.0/8 10.2.3.0/24 {brackets}")
    found = steps(ctl("doctor", "--offline", "--json")[1])
    assert found["firewall"] == ["warning: the firewall does not let 10.2.3.0/24 to port 25"]

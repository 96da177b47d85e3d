"""The suite on a "booted image": a shell in the sandbox of a private Postfix, so no VM is needed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

from builder import process
from builder.conformance import CASES
from builder.conformance.guest import GuestRelay
from builder.conformance.here import run_here
from builder.conformance.local import LocalRelay
from builder.conformance.runner import run_case
from builder.conformance.setups import SETUPS, Bed, running
from builder.launch.interface import Guest
from builder.process import Finished
from builder.releases import Release

pytestmark = pytest.mark.postfix

# There is no systemd in the sandbox: what is asked of it is noted, and the unit is Postfix itself.
_SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>/run/relay-lib/systemctl.calls
case "$1 $*" in
"stop "*postfix@-.service*) postfix stop >/dev/null 2>&1 || : ;;
"restart "* | "start start postfix@-"*) postfix start >/dev/null 2>&1 ;;
esac
"""
# What the suite reads of an image, and where it is in the sandbox.
_AGENT_JSON = '{"postfix_unit": "postfix@-.service", "upstreams": [{"tls": "starttls"}]}'
_PLACES = {"/etc/relay/": "/run/relay-lib/", "/usr/lib/relay/": "/run/relay-lib/"}
_CASES = (
    "delivered",
    "map-empty",
    "wrong-password",
    "unknown-client",
    "report-kept",
    "killed",
    "disk-full",
    "inodes-full",
)


@dataclass
class ShellGuest:
    """What the suite needs of a guest."""

    relay: LocalRelay

    @property
    def smtp_address(self) -> tuple[str, int]:
        return self.relay.smtp_address

    def run(self, command: str, *, stdin: str | None = None, check: bool = True, **_options: Any) -> Finished:
        for place, here in _PLACES.items():
            command = command.replace(place, here)
        words = ["sh", "-c", f"PATH=/run/relay-lib/bin:$PATH; {command}"]
        return process.run(self.relay.command(words), stdin=stdin, check=check)


@pytest.fixture(scope="module")
def bed(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """A private Postfix with a systemctl of its own."""
    with running(SETUPS["plain"], release, tmp_path_factory.mktemp("guest")) as started:
        started.relay.write_file("/run/relay-lib/bin/systemctl", _SYSTEMCTL, mode=0o755)
        started.relay.run(["postconf", "-X", "smtpd_authorized_xclient_hosts"])
        started.relay.write_file("/run/relay-lib/agent.json", _AGENT_JSON)
        yield started


@pytest.mark.parametrize("name", _CASES)
def test_case_on_a_guest(name: str, bed: Bed) -> None:
    guest = cast(Guest, ShellGuest(bed.relay))
    case = next(case for case in CASES if case.name == name)
    with GuestRelay(guest, client_address="127.0.0.1") as relay:
        relay.patience = 2
        relay.reports = bed.relay.reports
        result = run_case(relay, bed.upstreams, case)
    assert result.problems == ()
    assert result.passed, result.skipped
    calls = bed.relay.run(["cat", "/run/relay-lib/systemctl.calls"]).splitlines()
    assert calls[-1] == "start --no-block relay-agent.service"
    assert shlex.split(bed.relay.run(["postconf", "-h", "smtpd_authorized_xclient_hosts"])) == []


def test_the_map_is_readable_by_root_alone(bed: Bed) -> None:
    guest = cast(Guest, ShellGuest(bed.relay))
    with GuestRelay(guest, client_address="127.0.0.1") as relay:
        relay.set_credentials({"smtp.example.com": "user:a 'quoted' pass$word"})
    assert bed.relay.run(["stat", "-c", "%a %U", "/run/relay/sasl"]).strip() == "600 root"
    assert bed.relay.run(["cat", "/run/relay/sasl"]) == "smtp.example.com user:a 'quoted' pass$word\n"


def test_the_command_reports_each_case(release: Release) -> None:
    report = run_here([case for case in CASES if case.name in ("delivered", "ehlo")])
    written = json.loads(json.dumps(report.to_json()))
    assert written["passed"] is True
    assert [case["name"] for case in written["cases"]] == ["delivered", "ehlo"]
    assert written["cases"][0]["at_fault"]["delivered"] == 1

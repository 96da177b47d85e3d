"""Tests of relay_agent.postfix and mailqueue on a real Postfix, also with only the unit's capabilities."""

from __future__ import annotations

import shutil
import smtplib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from relay_agent import mailqueue
from relay_agent.places import Places
from relay_agent.postfix import Postfix
from relay_agent.settings import Settings, Shape, Upstream

from tests.agent.relay_world import FakePostfix

pytestmark = pytest.mark.postfix

ROOT = Path(__file__).resolve().parents[2]
MAIN_CF = """\
compatibility_level = 2
queue_directory = {root}/spool
data_directory = {root}/data
maillog_file = {root}/mail.log
maillog_file_prefixes = /var/tmp
myhostname = relay.example.com
mydestination =
alias_maps =
local_transport = error:5.1.1 no local delivery on this relay
inet_interfaces = {address}
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relayhost = [relay.invalid]:587, [backup.invalid]:587
smtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt
"""
MASTER_CF = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


class RealPostfix:
    """An instance of this machine's Postfix with its own folders and address; its port 25 is closed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = "127.0.0.1"
        for name in ("etc", "spool", "data", "var/lib/relay"):
            (root / name).mkdir(parents=True)
        root.chmod(0o755)
        shutil.chown(root / "data", "postfix")
        self.config = root / "etc"
        (self.config / "main.cf").write_text(MAIN_CF.format(root=root, address=self.address))
        (self.config / "master.cf").write_text(MASTER_CF)
        self.places = Places(root, smtp_host=self.address)
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/net").symlink_to("/proc/self/net")
        self.places.run_dir.mkdir(parents=True)
        self.postfix = Postfix(self.places, config_dir=self.config)

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [command[0], "-c", str(self.config), *command[1:]], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def send(self, count: int = 1) -> None:
        with smtplib.SMTP(self.address, 25, timeout=10) as client:
            for _ in range(count):
                client.sendmail("s@example.com", ["a@example.org"], "Subject: x\r\n\r\nx\r\n")


@pytest.fixture
def real() -> Iterator[RealPostfix]:
    # Not below tmp_path: Postfix's own user must be able to enter. One at a time: there is one port 25.
    root = Path(tempfile.mkdtemp(prefix="relay-agent-", dir="/var/tmp"))
    with FileLock("/var/tmp/relay-agent-port-25.lock", timeout=120):
        instance = RealPostfix(root)
        try:
            instance.run("postfix", "start")
            yield instance
        finally:
            subprocess.run(["postfix", "-c", str(instance.config), "abort"], check=False, capture_output=True)
            shutil.rmtree(root)


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
from relay_agent.postfix import Postfix
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

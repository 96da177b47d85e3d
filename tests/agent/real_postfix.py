"""A real Postfix of its own for one test: its folders, its configuration, this machine's port 25."""

from __future__ import annotations

import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from relay_agent.places import Places
from relay_agent.postfix import Postfix

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


@contextmanager
def real_postfix() -> Iterator[RealPostfix]:
    """Start an instance, and leave nothing of it behind.

    Not below pytest's folder: Postfix's own user must be able to enter. One at a time: there is one port 25.
    """
    root = Path(tempfile.mkdtemp(prefix="relay-agent-", dir="/var/tmp"))
    with FileLock("/var/tmp/relay-agent-port-25.lock", timeout=240):
        instance = RealPostfix(root)
        try:
            instance.run("postfix", "start")
            yield instance
        finally:
            subprocess.run(["postfix", "-c", str(instance.config), "abort"], check=False, capture_output=True)
            shutil.rmtree(root)

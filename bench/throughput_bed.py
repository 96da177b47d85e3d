"""What bench/throughput.py measures with: Go tools, a fast sink, 40 ms of round trip, and two relays."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from bench import harness
from builder import process
from builder.config.model import RelayConfig
from builder.conformance.local import LocalRelay
from builder.releases import Release
from builder.render import render

TOOLS = harness.ROOT / ".tools"
HOST = "email-smtp.us-east-1.amazonaws.com"
ROUND_TRIP_MS = 40
_USER, _PASSWORD = "bench", "secret-of-the-bench"
_START_SECONDS = 20
_TOXIPROXY = "github.com/Shopify/toxiproxy/v2/cmd/server"

# The README of the hand-made set-up, as it is written, with its steps for a provider that listens here. Its
# `sudo nano` leaves compatibility_level in Debian's main.cf as it was. The address stands for the name: the
# packaged chroot has no /etc/hosts.
_REFERENCE = """\
compatibility_level = 3.6
smtpd_banner = $myhostname ESMTP
biff = no
append_dot_mydomain = no
readme_directory = no
smtp_tls_security_level = encrypt
smtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt
myhostname = relay.example.com
mydomain = example.com
myorigin = $mydomain
mydestination = localhost
mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128
inet_interfaces = loopback-only
inet_protocols = ipv4
relayhost = [127.0.0.1]:{port}
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = hash:/etc/postfix/sasl_passwd
smtp_sasl_security_options = noanonymous
smtp_use_tls = yes
"""


@dataclass(frozen=True)
class Bed:
    """The provider's side; `direct_port` is the sink without the added round trip."""

    folder: Path
    port: int
    direct_port: int
    control: str
    ca_pem: str
    pids: tuple[int, ...]

    def stats(self) -> dict[str, float]:
        """Return what the sink has counted since `reset`."""
        return _ask(f"http://{self.control}/stats")

    def reset(self) -> None:
        """Count from nothing."""
        _ask(f"http://{self.control}/reset", {})


def build_tools() -> None:
    """Build the sink and toxiproxy (its version is in bench/load/go.mod) into `.tools/`; needs Go 1.23."""
    go = process.find_tool(
        "go",
        to="build the sink and toxiproxy",
        install="apt-get install golang-go",
        also=("/usr/local/go/bin/go",),
    )
    for name, package in (("load", "."), ("toxiproxy-server", _TOXIPROXY)):
        process.run(
            ["nice", go, "build", "-o", TOOLS / name, package],
            cwd=harness.ROOT / "bench/load",
            env={name: value for name, value in os.environ.items() if name.startswith("GO")},
            timeout_seconds=900,
        )


@contextlib.contextmanager
def provider(folder: Path, *, round_trip_ms: int, accept_ms: int) -> Iterator[Bed]:
    """Run the sink behind toxiproxy; `accept_ms` is how long it takes over each message."""
    authority = trustme.CA()
    leaf = authority.issue_cert(HOST, "localhost", "127.0.0.1")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(folder / "sink.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "password").write_text(_PASSWORD)
    pem = folder / "sink.pem"
    sink = subprocess.Popen(
        [TOOLS / "load", "sink", "-cert", pem, "-key", pem, "-user", _USER, "-password-file",
         folder / "password", "-wait", f"{accept_ms}ms"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert sink.stdout is not None
        where = json.loads(sink.stdout.readline())
        control = f"http://127.0.0.1:{free_port()}"
        with process.Running(
            [TOOLS / "toxiproxy-server", "-host", "127.0.0.1", "-port", control.rpartition(":")[2]],
            log=folder / "toxiproxy.log",
        ) as toxiproxy:
            port = _add_latency(control, where["smtp"], round_trip_ms)
            yield Bed(
                folder, port, int(where["smtp"].rpartition(":")[2]), where["control"],
                (folder / "ca.pem").read_text(), (sink.pid, toxiproxy.pid),
            )  # fmt: skip
    finally:
        sink.terminate()
        sink.wait(_START_SECONDS)


def _add_latency(control: str, upstream: str, round_trip_ms: int) -> int:
    proxy = {"name": "way", "listen": "127.0.0.1:0", "upstream": upstream, "enabled": True}
    _wait_for_port(int(control.rpartition(":")[2]))
    made = _ask(f"{control}/proxies", proxy)
    for stream in ("upstream", "downstream"):
        _ask(
            f"{control}/proxies/way/toxics",
            {"type": "latency", "stream": stream, "attributes": {"latency": round_trip_ms // 2}},
        )
    return int(made["listen"].rpartition(":")[2])


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def product(bed: Bed, release: Release, folder: Path, settings: Mapping[str, str]) -> LocalRelay:
    """Return this product's relay, preset `ses`, as rendered; `settings` is for trying other values."""
    config = RelayConfig.model_validate({"preset": "ses", "region": "us-east-1"})
    return LocalRelay(
        render(config, release), folder, ports={HOST: bed.port}, ca_pem=bed.ca_pem, parameters=settings
    )


def reference(bed: Bed, folder: Path) -> LocalRelay:
    """Return the relay of the hand-made set-up."""
    files = {
        "root/etc/postfix/main.cf": _REFERENCE.format(port=bed.port),
        # Port 25 of this machine is not ours; everything else of master.cf is as packaged.
        "root/usr/lib/relay/master.cf.edits": "-MX smtp/inet\n",
        "root/etc/relay/agent.json": "{}",
    }
    return LocalRelay(files, folder, ports={HOST: bed.port}, ca_pem=bed.ca_pem)


def give_credential(relay: LocalRelay, bed: Bed, *, by_hand: bool) -> None:
    """Put the password where the relay's configuration looks for it."""
    if by_hand:
        relay.write_file(
            "/etc/postfix/sasl_passwd", f"[127.0.0.1]:{bed.port} {_USER}:{_PASSWORD}\n", mode=0o600
        )
        relay.run(["postmap", "/etc/postfix/sasl_passwd"])
    else:
        relay.write_file("/run/relay/sasl", f"{HOST} {_USER}:{_PASSWORD}\n", mode=0o600)


def bare_client(bed: Bed, *, port: int, sessions: int, messages: int, with_reset: bool) -> float:
    """Send with as many authenticated sessions as that, and return messages per second."""
    said = process.run(
        [TOOLS / "load", "client", "-address", f"127.0.0.1:{port}", "-name", HOST,
         "-ca", bed.folder / "ca.pem", "-user", _USER, "-password-file", bed.folder / "password",
         "-sessions", str(sessions), "-messages", str(messages), f"-reset={str(with_reset).lower()}"],
        timeout_seconds=120,
    ).stdout  # fmt: skip
    return float(json.loads(said)["per_second"])


def cpu_seconds(relay: LocalRelay) -> float:
    """Return the CPU time of everything in the relay's namespace, ended processes too."""
    stats = relay.run(["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null"], check=False).splitlines()
    ticks = sum(sum(map(int, line.rpartition(")")[2].split()[11:15])) for line in stats)
    return ticks / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ask(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text = answer.read()
    return dict(json.loads(text)) if text else {}

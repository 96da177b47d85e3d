"""Steps of `relayctl doctor` about the provider: credential, name, connection, certificate, login."""

from __future__ import annotations

import re
import socket
import stat
from typing import Iterator

from relay_agent.ctl.context import Context
from relay_agent.ctl.findings import Finding, ok, warning, wrong
from relay_agent.maps import read_sasl
from relay_agent.probe import Prover
from relay_agent.settings import Upstream
from relay_agent.trouble import Trouble

_RELAYHOST = re.compile(r"\[([^\]]+)\](?::(\d+))?")
_AGENT = "`systemctl restart relay-agent`; `relayctl status` says what it waits for"


def credential_map(context: Context) -> Iterator[Finding]:
    """Look whether the credential is where Postfix looks, for the right host, and for root only."""
    path = context.places.sasl_map
    try:
        keys, mode = set(read_sasl(path)), stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        yield wrong("credential", f"`{path}` is missing: mail waits", _AGENT)
        return
    if mode != 0o600:
        yield wrong("credential", f"`{path}` has mode {mode:04o} instead of 0600", f"`chmod 600 {path}`")
    kind = _file_system(context)
    if kind not in ("tmpfs", "ramfs"):
        yield warning("credential", f"`{path.parent}` is on {kind}, not in memory", "`findmnt /run`")
    wanted = {host for host, _ in _RELAYHOST.findall(context.parameter("relayhost"))}
    wanted |= {upstream.key for upstream in context.settings().upstreams if upstream.key != upstream.host}
    missing = sorted(wanted - keys)
    if missing:
        text = f"no entry for {', '.join(missing)}; the map has {', '.join(sorted(keys)) or 'nothing'}"
        yield wrong("credential", text, _AGENT)
    else:
        yield ok("credential", f"an entry for {', '.join(sorted(keys))}, mode {mode:04o}, on {kind}")


def _file_system(context: Context) -> str:
    """Return the type of file system under /run/relay; see proc(5), mountinfo."""
    best, kind = "", "unknown"
    try:
        lines = (context.places.root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return kind
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        inside = "/run/relay".startswith(point.rstrip("/") + "/") or point in ("/", "/run/relay")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def provider(context: Context) -> Iterator[Finding]:
    """Walk to each provider: name, TCP, certificate, login."""
    settings = context.settings()
    try:
        credentials = read_sasl(context.places.sasl_map)
    except FileNotFoundError:
        credentials = {}
    prover = Prover(
        ca_file=context.places.private_ca if settings.ca_pem else context.places.ca_bundle,
        hello=settings.hostname or "relay.localdomain",
        timeout_seconds=10,
        deadline_seconds=30,
    )
    for upstream in settings.upstreams:
        finding = _reach(upstream)
        yield finding
        if finding.state == "wrong":
            continue
        if upstream.key not in credentials:
            yield warning(f"login {upstream.name}", "not tried: there is no credential for it", _AGENT)
            continue
        try:
            prover.prove(upstream, credentials[upstream.key])
        except Trouble as trouble:
            step = "login" if trouble.code.startswith("auth-") else "connection"
            state = warning if trouble.code.endswith("-temporary") else wrong
            yield state(f"{step} {upstream.name}", f"{trouble.message} [{trouble.code}]", trouble.hint)
        else:
            text = f"{upstream.host}:{upstream.port}: certificate trusted, login accepted"
            yield ok(f"login {upstream.name}", text)


def _reach(upstream: Upstream) -> Finding:
    """Look the name up and connect, to tell DNS from the network."""
    where, step = f"{upstream.host}:{upstream.port}", f"connection {upstream.name}"
    try:
        found = socket.getaddrinfo(upstream.host, upstream.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        text = f"{upstream.host} cannot be found in DNS ({error.strerror})"
        return wrong(step, text, f"`resolvectl query {upstream.host}`")
    addresses = sorted({str(item[4][0]) for item in found})
    try:
        socket.create_connection((upstream.host, upstream.port), timeout=10).close()
    except OSError as error:
        text = f"{where} ({', '.join(addresses)}) cannot be reached: {error.strerror or error}"
        mend = "Open this port in outgoing firewalls and security groups; EC2 throttles port 25"
        return wrong(step, text, mend)
    return ok(step, f"{where} is {', '.join(addresses)} and can be reached")

"""Steps of `relayctl doctor` about this machine: agent, Postfix, port 25, policy, disk, clock."""

from __future__ import annotations

from typing import Iterator

from relay_agent import programs, room
from relay_agent.ctl.context import Context
from relay_agent.ctl.findings import Finding, ok, warning, wrong
from relay_agent.ctl.policy import NO_FIREWALL
from relay_agent.firewall import networks_of, not_covered, read_plan, read_sets
from relay_agent.networks import collapse
from relay_agent.trouble import Trouble

# nftables alone has the networks of the image; those of `boot.json` come from the agent.
_RESTORE = "`systemctl restart nftables relay-agent`"


def agent(context: Context) -> Iterator[Finding]:
    """Ask whether the agent is alive, and what it says."""
    status = context.status()
    reason = status.get("reason") or {}
    step = "agent"
    if status["state"] == "ready":
        yield ok(step, status["message"])
    elif status["state"] in ("degraded", "draining"):
        yield warning(step, status["message"], reason.get("hint"))
    else:
        yield wrong(step, status["message"], reason.get("hint"))
    for name, found in status.get("loops", {}).items():
        text = f"its loop {name} failed {found['failures']} times: {found['reason']['message']}"
        yield warning(step, text, found["reason"]["hint"])
    for upstream in status["upstreams"]:
        if upstream["refused_version"]:
            text = f"version {upstream['refused_version']} of `{upstream['secret']}` is refused"
            mend = "`builder secret check`, then `builder secret put`"
            if upstream["state"] == "proven":
                yield warning("rotation", f"{text}; the old one serves on", mend)
            else:
                yield wrong("rotation", f"{text}, and no other one works", mend)


def postfix(context: Context) -> Iterator[Finding]:
    """Ask whether Postfix runs, and whether its files are right."""
    unit = context.settings().postfix_unit
    # Not `systemctl is-active postfix`: up to Ubuntu 24.04 that unit is active without any Postfix.
    if not context.postfix.is_running():
        yield wrong("Postfix", "it does not run", f"`systemctl restart {unit}`; `journalctl -u {unit}`")
    else:
        yield ok("Postfix", f"it runs ({unit})")
    ended = programs.run(context.postfix.command("postfix", "check"))
    text = (ended.stdout + ended.stderr).strip()
    if ended.returncode != 0:
        yield wrong("configuration", ended.last_line, "`postfix check`")
    elif text:
        yield warning("configuration", text.splitlines()[0], "`postfix check`")
    else:
        yield ok("configuration", "`postfix check` finds nothing")


def port(context: Context) -> Iterator[Finding]:
    """Look whether port 25 is open, when it should be."""
    number = context.places.smtp_port
    if context.places.draining.exists():
        yield warning("port", f"port {number} is closed for draining", "`relayctl drain --cancel`")
    elif context.postfix.is_listening():
        yield ok("port", f"port {number} is open")
    else:
        # On purpose, until the credential is proven: opened by hand it would take mail that cannot go on.
        yield wrong(
            "port", f"port {number} is closed", "Mend what `relayctl status` names; the agent opens it"
        )


def policy(context: Context) -> Iterator[Finding]:
    """Look who may relay, and whether the firewall agrees."""
    networks = context.parameter("mynetworks").replace(",", " ").split()
    if any(network.endswith("/0") for network in networks):
        yield wrong(
            "policy", "everybody may relay (`mynetworks` has a /0)", "Correct `networks` and bake again"
        )
    else:
        yield ok("policy", f"may relay: {' '.join(networks)}")
    yield from _firewall(context, networks)


def _firewall(context: Context, networks: list[str]) -> Iterator[Finding]:
    """Compare who may relay with who gets through, as networks: nft writes them in its own way."""
    plan = read_plan(context.places)
    if not plan.enabled:
        yield ok("firewall", NO_FIREWALL)
        return
    sets = read_sets()
    if sets is None:
        yield warning("firewall", "there is no table `inet relay`", _RESTORE)
        return
    try:
        wanted = [network for network in networks_of(networks) if not network.is_loopback]
    except ValueError as error:
        yield warning("firewall", f"not compared: `mynetworks` is no list of networks ({error})")
        return
    for name in plan.sets:
        members = [member for key, found in sets.items() if key[:-1] == name for member in found]
        allowed = networks_of(members)
        missing = ", ".join(str(network) for network in not_covered(wanted, allowed))
        shown = ", ".join(str(network) for network in collapse(allowed)) or "nobody"
        where = "port 25" if name == "networks" else f"the {name} port"
        if missing:
            text = f"the firewall does not let {missing} to {where}"
            yield warning("firewall", text, _RESTORE)
        else:
            yield ok("firewall", f"lets {shown} to {where}")


def dkim(context: Context) -> Iterator[Finding]:
    """Look whether mail is signed, and say what must stand in DNS."""
    signer = context.status().get("dkim")
    if not signer:
        return
    reason = signer["reason"] or {}
    if reason:
        state = warning if signer["signing"] else wrong
        yield state("DKIM", reason["message"], reason.get("hint"))
    for key in signer["keys"] if signer["signing"] else ():
        # Not looked up here: the resolver inside may not be what receivers see.
        record = f"; the TXT record {key['name']} must be {key['record']}" if key["record"] else ""
        yield ok("DKIM", f"mail of {key['domain']} is signed{record}")


def disk(context: Context) -> Iterator[Finding]:
    """Look for room for the queue, in bytes and in files, by the agent's own rules."""
    spool, limit = context.places.spool, context.postfix.message_bytes()
    try:
        found = room.look(spool)
    except OSError as error:
        yield wrong("disk", f"{spool}: {error.strerror}", f"`ls -ld {spool}`; Postfix has no queue there")
        return
    yield ok("disk", f"{found.free_bytes // 2**20} of {found.size_bytes // 2**20} MiB free in {spool}")
    if found.files:
        yield ok("inodes", f"{found.free_files} of {found.files} files free in {spool}")
    full, low = room.full(found, limit), room.low(found, limit)
    trouble = full or low
    if trouble is not None:
        step = "inodes" if trouble.code.startswith("inodes") else "disk"
        yield (wrong if full else warning)(step, trouble.message, trouble.hint)


def clock(_context: Context) -> Iterator[Finding]:
    """Look at the clock: a wrong one breaks the secret's signature, and certificates."""
    try:
        ended = programs.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    except Trouble:
        yield warning("clock", "`timedatectl` is not here")
        return
    if ended.stdout.strip() == "yes":
        yield ok("clock", "synchronized")
    else:
        yield warning("clock", "not synchronized with a time server", "`systemctl restart systemd-timesyncd`")

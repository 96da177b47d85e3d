"""Checks of a second instance from the same image, started before its secret exists."""

from __future__ import annotations

import json

from builder.verify.check import check
from builder.verify.relay import Relay, require

_AGENT_SECONDS = 600
_OPEN_SECONDS = 120
_IDENTITY = {
    "machine id": "cat /etc/machine-id",
    "host key": "cat /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f2",
    "host name": "hostname",
}
_MUST_DIFFER = ("machine id", "host key")


@check("secret-missing")
def secret_missing(relay: Relay) -> str:
    """Prove that without its secret port 25 stays closed, and /readyz and the status say why."""
    status, text = relay.wait(
        lambda: _answer_that_names(relay, relay.stand_ins.secret_name),
        f"answer of /readyz that names `{relay.stand_ins.secret_name}`",
        _AGENT_SECONDS,
        relay.ready_text,
    )
    require(status == 503, f"/readyz says {status}, expected 503")
    # A while later it must be as closed as it was.
    relay.guest.wait_ssh(timeout_seconds=_AGENT_SECONDS)
    require(not relay.has_listener(), "something listens on port 25")
    banner = relay.greeting()
    require(not banner, f"port 25 greets: {banner}")
    require(not relay.provider.auths, "it logged in at the provider")
    return f"port 25 closed; /readyz {status}: {_message(text)}"


@check("secret-arrives")
def secret_arrives(relay: Relay) -> str:
    """Prove that once the secret is there it becomes ready by itself and relays."""
    for name, content in relay.logins.secrets.items():
        relay.stand_ins.secrets.put(name, content)
    waited = relay.guest.wait_ready(timeout_seconds=_OPEN_SECONDS)
    relay.wait_greeting(timeout_seconds=10)
    relay.wait_delivered(relay.send())
    return f"ready {waited:.0f} s after power-on, without a restart; a message was relayed"


@check("clones-differ")
def clones_differ(relay: Relay) -> str:
    """Prove that two instances of one image have different machine ids and host keys."""
    mine = read_identity(relay)
    require(relay.identity, "the first instance could not be asked")
    same = [name for name in _MUST_DIFFER if mine[name] == relay.identity[name]]
    require(not same, f"both have the same {' and '.join(same)}")
    return f"machine ids {mine['machine id'][:8]}… and {relay.identity['machine id'][:8]}…, host keys differ"


def read_identity(relay: Relay) -> dict[str, str]:
    """Return what must differ between two instances."""
    found = {name: relay.read(command) for name, command in _IDENTITY.items()}
    empty = [name for name in _MUST_DIFFER if not found[name]]
    require(not empty, f"it has no {' and no '.join(empty)}")
    return found


def _answer_that_names(relay: Relay, name: str) -> tuple[int, str] | None:
    # Before the agent has asked for the secret it gives other reasons, or none.
    status, text = relay.guest.health("/readyz")
    return (status, text) if status and name in text else None


def _message(text: str) -> str:
    try:
        return str(json.loads(text).get("message", text))
    except (ValueError, AttributeError):
        return text


CHECKS = (secret_missing, secret_arrives, clones_differ)

"""What a step of `relayctl doctor` has found, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass

from relay_agent.trouble import Trouble


@dataclass(frozen=True)
class Finding:
    """One step: `state` is ok, warning or wrong; `evidence` was seen, `mend` is the command that helps."""

    step: str
    state: str
    evidence: str
    mend: str | None = None


def ok(step: str, evidence: str) -> Finding:
    """Say that it is as it should be."""
    return Finding(step, "ok", evidence)


def warning(step: str, evidence: str, mend: str | None = None) -> Finding:
    """Say that it may explain something, or will soon."""
    return Finding(step, "warning", evidence, mend)


def wrong(step: str, evidence: str, mend: str | None = None) -> Finding:
    """Say that this is why mail does not arrive, or could be."""
    return Finding(step, "wrong", evidence, mend)


def of_trouble(step: str, trouble: Trouble) -> Finding:
    """Take message and hint of an error."""
    return wrong(step, f"{trouble.message} [{trouble.code}]", trouble.hint)


# What to do about the reason for which mail waits or bounces; the words are those of maillog.reason_of.
MENDS = {
    "auth": "`relayctl status` shows the credential; `builder secret check`, then `builder secret put`",
    "auth-temporary": "The provider's login service is busy: nothing, it is tried again",
    "credential": "The relay has no credential (yet): `relayctl status` says why",
    "quota": "The account's quota is used up: mail waits; ask the provider for more",
    "throttled": "The provider limits the rate: mail waits; lower the rate or ask the provider for more",
    "tls": "`apt-get install --only-upgrade ca-certificates`, look for a proxy in between; never weaken TLS",
    "connect": "Open the provider's port in outgoing firewalls and security groups; EC2 throttles port 25",
    "dns": "`resolvectl status`; then `resolvectl query` with the provider's host",
    "size": "The message is larger than the provider takes: send a link instead",
    "sender": "Verify the sender's address or domain at the provider",
    "recipient": "The address does not exist: correct it in the application",
    "policy": "The provider or the recipient refuses content or sender: read the reply, check SPF and DKIM",
    "loop": "`relayhost` leads back here: check `hostname` and the upstream's host in relay.yaml",
}

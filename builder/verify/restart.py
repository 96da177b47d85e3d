"""Checks across a reboot and a power cut: what was accepted stays, and mail is taken at once."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable

from builder import disk
from builder.console import format_seconds
from builder.scratch import Scratch
from builder.standin.behaviour import Behaviour, Fault
from builder.standin.secrets import SecretFault
from builder.verify.check import check
from builder.verify.relay import Relay, require

_BOOT_SECONDS = 600
_QUEUED = 5
_DELIVERY_SECONDS = 180
_PAUSE_SECONDS = 1.0


@check("reboot")
def reboot(relay: Relay) -> str:
    """Prove that after a reboot port 25 opens without provider and credential; the queue is kept."""
    relay.misbehave(Behaviour(Fault.REFUSE))
    # A message that was delivered while the agent reloaded Postfix keeps its file until the next look at it.
    earlier = _queue_ids(relay)
    relay.subjects += relay.send(_QUEUED)
    queued = _seen(relay) - earlier
    require(len(queued) == _QUEUED, f"{len(queued)} new messages are queued, expected {_QUEUED}")
    relay.stand_ins.secrets.fail(SecretFault.DENIED)
    relay.guest.reboot(timeout_seconds=_BOOT_SECONDS)
    relay.wait_greeting(timeout_seconds=_BOOT_SECONDS)
    lost = queued - _seen(relay)
    require(not lost, f"{len(lost)} of {len(queued)} queued messages are gone")
    relay.subjects += relay.send()
    return f"port 25 open, {len(queued)} messages kept; /readyz: {relay.ready_text()[:120]}"


@check("power-cut")
def power_cut(relay: Relay) -> str:
    """Prove that a power cut loses no message that got its 250."""
    relay.subjects += relay.send(_QUEUED)
    # No pause and no sync: what was answered with 250 must be on the disk already.
    relay.guest.power_cut()
    relay.stand_ins.secrets.clear()
    relay.provider.clear()
    seconds = relay.guest.wait_ready(timeout_seconds=_BOOT_SECONDS)
    relay.wait_greeting(timeout_seconds=30)
    relay.wait_proven()
    relay.flush()
    delivered = relay.wait_delivered(relay.subjects, timeout_seconds=_DELIVERY_SECONDS)
    twice = len(delivered) - len(relay.subjects)
    require(not relay.bounces(), "the provider got a bounce")
    return (
        f"ready again after {format_seconds(seconds)}; {len(relay.subjects)} accepted before reboot and cut, "
        f"all delivered, {twice} twice"
    )


@check("credential-in-no-file")
def credential_in_no_file(relay: Relay) -> str:
    """Prove that the credential is nowhere on the disk, free space and journal included."""
    relay.read("sync")
    relay.guest.stop()
    traces = {**relay.traces, **_encoded(relay.traces)}
    needles = dict.fromkeys(traces.values())
    # The image is older than the credential: what the guest wrote is all that can hold it.
    written = disk.written_ranges(relay.guest.disk)
    # A copy of a disk that has seen the credential: it must not outlive a run that is killed either.
    with Scratch("verify") as folder:
        raw = folder / "disk.raw"
        disk.write_raw(relay.guest.disk, "qcow2", raw)
        found = disk.search(raw, needles, ranges=written)
        root = disk.find_root(raw)
        places = {root.owner(position) for position, _text in found}
    # Clusters that were given back are no longer part of the disk, but still in the file.
    leftovers = disk.search(relay.guest.disk, needles)
    require(not found, f"{_which(found, traces)} found in {', '.join(sorted(places))}")
    require(not leftovers, f"{_which(leftovers, traces)} found in the overlay file")
    mib = sum(end - start for start, end in written) // 2**20
    return f"searched the {mib} MiB that the guest wrote for {len(traces)} forms of it: nothing"


def _seen(relay: Relay) -> set[str]:
    """Return what is in the queue at one of two looks: one misses what just moves between two queues."""
    seen = _queue_ids(relay)
    time.sleep(_PAUSE_SECONDS)
    return seen | _queue_ids(relay)


def _queue_ids(relay: Relay) -> set[str]:
    return {entry["queue_id"] for entry in relay.queue()}


def _encoded(traces: dict[str, bytes]) -> dict[str, bytes]:
    """Return each value as base64 shows it at any of the three alignments, without the uncertain ends."""
    found = {}
    for name, value in traces.items():
        for shift in range(3):
            whole = base64.b64encode(b"\0" * shift + value + b"\0" * ((-shift - len(value)) % 3))
            found[f"{name} in base64 ({shift})"] = whole[4:-4]
    return found


def _which(found: Iterable[tuple[int, bytes]], traces: dict[str, bytes]) -> str:
    texts = {text for _position, text in found}
    return ", ".join(sorted(name for name, value in traces.items() if value in texts))


CHECKS = (reboot, power_cut, credential_in_no_file)

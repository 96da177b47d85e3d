"""How fast the relay sends: against the hand-made set-up, and against a bare client with as many sessions.

All three send through the same Go sink (STARTTLS, AUTH) with 40 ms of round trip added by toxiproxy. One run
of a relay: smtp-source offers a batch as fast as Postfix takes it (that gives the intake); the delivery rate
is what the sink counts from the moment when the last message was taken, so that a backlog is there and
intake no longer competes for the processor, until 90 % are delivered. The queue is on tmpfs for both relays:
it is not the disk that is compared. Needs root, Postfix and Go.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import harness, throughput_bed, throughput_plot
from bench.throughput_bed import Bed
from builder import process
from builder.conformance.local import LocalRelay
from builder.releases import RELEASES, Release

_LIMIT_SECONDS = 90
_BYTES = 4096
_CLIENTS = 20


@dataclass(frozen=True)
class Run:
    """One relay, one batch; rates are messages per second, `curve` is (seconds, delivered)."""

    delivered: float
    whole: float
    intake: float
    delivered_during_intake: float
    auths_per_1000: float
    cpu_per_1000: float
    sessions: int
    curve: tuple[tuple[float, int], ...]


def release_here() -> Release:
    """Return the newest release whose Postfix is not newer than the one installed."""
    version = process.run(["postconf", "-dh", "mail_version"]).stdout.strip()
    series = tuple(int(part) for part in version.split(".")[:2])
    known = [release for release in RELEASES.values() if release.postfix_version <= series]
    return max(known, key=lambda release: release.postfix_version)


def offer(relay: LocalRelay, messages: int) -> process.Running:
    """Start smtp-source: so many messages, as fast as they are taken."""
    host, port = relay.smtp_address
    return process.Running(
        ["smtp-source", "-d", "-s", str(_CLIENTS), "-m", str(messages), "-l", str(_BYTES),
         "-f", "app@example.com", "-t", "to@example.net", f"{host}:{port}"],
        log=Path("/dev/null"),
    )  # fmt: skip


def measure(relay: LocalRelay, bed: Bed, messages: int) -> Run:
    """Send one batch through a running relay."""
    cpu, started = throughput_bed.cpu_seconds(relay), time.time()
    bed.reset()
    curve: list[tuple[float, int]] = []
    taken: tuple[float, int] | None = None
    with offer(relay, messages) as source:
        while True:
            stats = bed.stats()
            now = (time.time() - started, int(stats["messages"]))
            curve.append(now)
            if taken is None and source.poll() is not None:
                taken = now
            if (taken and now[1] >= messages) or now[0] > _LIMIT_SECONDS:
                break
            time.sleep(0.05)
    count, taken = curve[-1][1], taken or curve[-1]
    _require_whole(source, count, messages)
    thousands = count / 1000
    return Run(
        delivered=_rate_between(curve, taken[0], 0.9),
        whole=count / (float(stats["last"]) - started),
        intake=messages / taken[0],
        delivered_during_intake=taken[1] / taken[0],
        auths_per_1000=stats["auths"] / thousands,
        cpu_per_1000=(throughput_bed.cpu_seconds(relay) - cpu) / thousands,
        sessions=int(stats["sessions_at_once"]),
        curve=tuple(curve),
    )


def _rate_between(curve: list[tuple[float, int]], start: float, part: float) -> float:
    """Return the deliveries per second from a moment until this part of all is delivered."""
    begin = next(point for point in curve if point[0] >= start)
    end = next(point for point in curve if point[1] >= part * curve[-1][1])
    if end[0] - begin[0] < 0.5:
        # Delivery kept up with intake: then there was no backlog, and the whole is the rate.
        return curve[-1][1] / curve[-1][0]
    return (end[1] - begin[1]) / (end[0] - begin[0])


def one_relay(bed: Bed, *, by_hand: bool, messages: int, settings: dict[str, str]) -> Run:
    """Start a relay, send a few messages to warm it up, then measure it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Path(folder) / "relay"
        if by_hand:
            relay = throughput_bed.reference(bed, place)
        else:
            relay = throughput_bed.product(bed, release_here(), place, settings)
        with relay:
            throughput_bed.give_credential(relay, bed, by_hand=by_hand)
            bed.reset()
            with offer(relay, _CLIENTS) as source:
                source.wait(30)
            _wait_for(bed, _CLIENTS)
            _require_whole(source, int(bed.stats()["messages"]), _CLIENTS)
            return measure(relay, bed, messages)


def intake_alone(bed: Bed, messages: int) -> float:
    """Return the intake of the product per second while it delivers nothing at all."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        relay = throughput_bed.product(
            bed, release_here(), Path(folder) / "relay", {"defer_transports": "smtp"}
        )
        with relay:
            started = time.monotonic()
            with offer(relay, messages) as source:
                source.wait(_LIMIT_SECONDS)
            seconds = time.monotonic() - started
            _require_whole(source, len(relay.wait_until_settled()), messages)
            return messages / seconds


def _require_whole(source: process.Running, found: int, messages: int) -> None:
    """Stop when mail is missing or the client failed: a rate of what happened to arrive says nothing."""
    if source.poll() != 0 or found != messages:
        raise SystemExit(f"{found} of {messages} messages are there; smtp-source ended with {source.poll()}")


def _wait_for(bed: Bed, messages: int) -> None:
    deadline = time.monotonic() + 30
    while bed.stats()["messages"] < messages:
        if time.monotonic() > deadline:
            raise SystemExit("The relay delivered nothing within 30 s")
        time.sleep(0.1)


def run_all(bed: Bed, runs: int, messages: int, settings: dict[str, str]) -> dict[str, list[Any]]:
    """Measure everything in turns, so that what else the machine does hits all of them alike."""
    found: dict[str, list[Any]] = {
        name: [] for name in ("reference", "product", "ceiling", "with_reset", "sink")
    }
    for turn in range(runs):
        by_hand = one_relay(bed, by_hand=True, messages=max(200, messages // 10), settings={})
        ours = one_relay(bed, by_hand=False, messages=messages, settings=settings)
        found["reference"].append(by_hand)
        found["product"].append(ours)
        for name, port, with_reset in (
            ("ceiling", bed.port, False),
            ("with_reset", bed.port, True),
            ("sink", bed.direct_port, False),
        ):
            found[name].append(
                throughput_bed.bare_client(
                    bed, port=port, sessions=ours.sessions, messages=messages, with_reset=with_reset
                )
            )
        harness.note(
            f"run {turn + 1} of {runs}: by hand {by_hand.delivered:.0f}/s, product {ours.delivered:.0f}/s, "
            + ", ".join(f"{name} {found[name][-1]:.0f}/s" for name in ("ceiling", "with_reset", "sink"))
        )
    return found


def result_of(found: dict[str, list[Any]], alone: float) -> dict[str, Any]:
    """Return the figures of all runs."""
    by_hand, ours = _median(found["reference"]), _median(found["product"])
    ceiling, with_reset, sink = (
        round(statistics.median(found[name]), 1) for name in ("ceiling", "with_reset", "sink")
    )
    return {
        "vs_reference": round(ours["delivered"] / by_hand["delivered"], 2),
        "vs_reference_whole": round(ours["whole"] / by_hand["whole"], 2),
        "vs_ceiling": round(ours["delivered"] / ceiling, 3),
        "vs_ceiling_with_reset": round(ours["delivered"] / with_reset, 3),
        "auths_per_1000": ours["auths_per_1000"],
        "messages_per_second": ours["delivered"],
        "cpu_seconds_per_1000": ours["cpu_per_1000"],
        "intake_per_second": ours["intake"],
        "intake_alone_per_second": round(alone, 1),
        "reference": by_hand,
        "product": ours,
        "ceiling_per_second": ceiling,
        "ceiling_with_reset_per_second": with_reset,
        "sink_per_second": sink,
        "runs": len(found["product"]),
    }


def _median(runs: list[Run]) -> dict[str, float]:
    names = [name for name in asdict(runs[0]) if name != "curve"]
    return {name: round(statistics.median(getattr(run, name) for run in runs), 2) for name in names}


def main() -> None:
    """Measure and report."""
    parser = harness.arguments(__doc__ or "", runs=3)
    parser.add_argument("--messages", type=int, default=6000, help="messages in one run of the product")
    parser.add_argument("--accept-ms", type=int, default=0, help="time the sink takes over each message")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="try another main.cf value"
    )
    parser.add_argument("--plot", type=Path, help="write the plot there, for example docs/throughput.png")
    options = parser.parse_args()
    settings = dict(item.split("=", 1) for item in options.set)

    throughput_bed.build_tools()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        throughput_bed.provider(
            Path(folder), round_trip_ms=throughput_bed.ROUND_TRIP_MS, accept_ms=options.accept_ms
        ) as bed,
    ):
        found = run_all(bed, options.runs, options.messages, settings)
        alone = intake_alone(bed, options.messages)
    result = result_of(found, alone)
    result |= {"round_trip_ms": throughput_bed.ROUND_TRIP_MS, "accept_ms": options.accept_ms, "bytes": _BYTES}
    if options.plot:
        throughput_plot.draw(options.plot, result, found["reference"][-1].curve, found["product"][-1].curve)
    harness.report(result, as_json=options.json)


if __name__ == "__main__":
    main()

"""The plot of bench/throughput.py: rates side by side, and the deliveries of one run over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_SECONDS = 20


def draw(
    path: Path,
    result: Mapping[str, Any],
    by_hand: Sequence[tuple[float, int]],
    product: Sequence[tuple[float, int]],
) -> None:
    """Write a PNG; the curves are (seconds, messages delivered)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (bars, lines) = plt.subplots(1, 2, figsize=(11, 4))
    _bars(bars, result)
    lines.plot(*zip(*_until(by_hand), strict=True), color="#c44e52", label="made by hand")
    lines.plot(*zip(*_until(product), strict=True), color="#4c72b0", label="builder, preset ses")
    lines.set_xlabel("seconds since the first message was offered")
    lines.set_ylabel("messages delivered")
    lines.legend()
    figure.suptitle(
        f"One relay, {result['round_trip_ms']} ms to the provider, {result['bytes']} bytes a message"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _bars(axes: Any, result: Mapping[str, Any]) -> None:
    sessions = round(result["product"]["sessions"])
    rows = {
        "made by hand": (result["reference"]["delivered"], "#c44e52"),
        "builder, preset ses": (result["messages_per_second"], "#4c72b0"),
        f"bare client, {sessions} sessions,\nRSET before each message": (
            result["ceiling_with_reset_per_second"],
            "#8c8c8c",
        ),
        f"bare client, {sessions} sessions": (result["ceiling_per_second"], "#8c8c8c"),
    }
    rates, colours = zip(*rows.values(), strict=True)
    drawn = axes.barh(list(rows), rates, color=colours)
    axes.bar_label(drawn, fmt="%.0f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("messages delivered per second")


def _until(curve: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    return [point for point in curve if point[0] <= _SECONDS]

"""Ten rotations under 50 messages a second, with the rendered configuration and the agent's own rotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.rotation import measure
from builder.releases import Release

pytestmark = pytest.mark.postfix


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_ten_rotations_under_load_lose_double_and_bounce_nothing(
    release: Release, tmp_path: Path, overlap: float
) -> None:
    found = measure(release, tmp_path, rotations=10, per_second=50, pause=0.6, overlap=overlap)
    assert found["accepted"] > 300
    # One for the first password; without them Postfix takes a new one only as its processes end, one by one.
    assert found["reloads"] > found["rotations"]
    problems = {name: found[name] for name in ("refused", "lost", "queued", "doubled", "bounced")}
    assert problems == dict.fromkeys(problems, 0)

"""The program that follows a warm-up plan in the relay, with a postconf that only notes what it is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import FakeTools
from tests.rendered import rendered

_STEPS = [{"date": "2026-12-01", "percent": 10}, {"date": "2026-12-08", "percent": 50}]


@pytest.fixture
def files() -> dict[str, str]:
    """The rendered files of a plan with two steps."""
    return rendered("ses", warm_up={"preset": "ses", "region": "eu-west-1", "steps": _STEPS})


def _run(files: dict[str, str], folder: Path, today: str) -> None:
    plan, program = folder / "warm-up.json", folder / "relay-warm-up"
    plan.write_text(files["root/etc/relay/warm-up.json"])
    program.write_text(files["root/usr/lib/relay/bin/relay-warm-up"])
    subprocess.run([sys.executable, program, "--plan", plan, "--today", today], check=True)


@pytest.mark.allow_programs("python3.11", "python", "python3")
@pytest.mark.parametrize(
    ("today", "warm", "cold"), [("2026-12-01", 1, 9), ("2026-12-07", 1, 9), ("2027-01-01", 1, 1)]
)
def test_the_step_of_the_day_is_set(
    files: dict[str, str], tmp_path: Path, fake_tool: FakeTools, today: str, warm: int, cold: int
) -> None:
    postconf = fake_tool("postconf", "echo old")
    postfix = fake_tool("postfix", "")
    _run(files, tmp_path, today)
    value = postconf.calls[-1][1].partition("=")[2]
    assert value.count("warm-up:") == warm
    assert value.count("smtp:") == cold
    assert postfix.calls == [["reload"]]


@pytest.mark.allow_programs("python3.11", "python", "python3")
def test_nothing_is_touched_when_it_is_right_already(
    files: dict[str, str], tmp_path: Path, fake_tool: FakeTools
) -> None:
    before = json.loads(files["root/etc/relay/warm-up.json"])["before"]
    postconf = fake_tool("postconf", f"echo '{before}'")
    postfix = fake_tool("postfix", "")
    _run(files, tmp_path, "2026-11-30")
    assert len(postconf.calls) == 1
    assert postfix.calls == []


def test_the_timer_starts_without_being_enabled(files: dict[str, str]) -> None:
    wanted = files["root/etc/systemd/system/timers.target.d/relay-warm-up.conf"]
    assert "Wants=relay-warm-up.timer" in wanted


def test_a_fixed_part_needs_no_plan() -> None:
    files = rendered("ses", warm_up={"preset": "ses", "region": "eu-west-1", "percent": 25})
    assert not [path for path in files if "warm-up" in path]
    assert "randmap:{smtp:,smtp:,smtp:,warm-up:" in files["root/etc/postfix/main.cf"]

"""The order of a verification, what a failure stops, and what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from builder import hygiene
from builder.config import RelayConfig
from builder.errors import BuilderError
from builder.hygiene import Assertion
from builder.launch.accelerator import Accelerator
from builder.process import Finished
from builder.verify import VerifyReport, runner, verify
from builder.verify.check import Check
from builder.verify.relay import CheckFailed, Relay
from tests.fakes import FakeTools
from tests.unit.test_verify_checks import AnswerGuest

CONFIG = RelayConfig(preset="ses", region="us-east-1")
TCG = Accelerator("tcg", "a test")


class Stage:
    """A launcher and checks that write down what happened."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.fails: set[str] = set()
        self.secret_is_there: list[bool] = []
        self.guest = AnswerGuest({})
        self.refuses = False

    def check(self, name: str) -> Check:
        def run(relay: Relay) -> str:
            self.events.append(name)
            if name in self.fails:
                raise CheckFailed(f"{name} went wrong")
            return "seen"

        return Check(name, f"{name} works", run)

    @contextmanager
    def launch(self, image: Path, *, user_data: str, login: bool, logs: Path | None) -> Iterator[AnswerGuest]:
        assert login
        assert logs
        if self.refuses:
            raise BuilderError("QEMU failed with exit code 1")
        logs.mkdir(parents=True)
        (logs / "serial.log").write_text("console\n")
        self.events.append(f"boot {logs.name}")
        yield self.guest
        self.events.append(f"off {logs.name}")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, fake_tool: FakeTools) -> Stage:
    stage = Stage()
    fake_tool("qemu-img", """echo '{"format": "qcow2", "image-end-offset": 0}'""")
    first = tuple(stage.check(name) for name in ("ready", "relayed", "power-cut"))
    monkeypatch.setattr(runner, "FIRST_BOOT", {"short": first[:2], "standard": first})
    monkeypatch.setattr(runner, "SECOND_BOOT", {"short": (), "standard": (stage.check("secret-missing"),)})
    monkeypatch.setattr(
        hygiene, "inspect_image", lambda _image, image_format: [Assertion("no-logs", "empty logs", ())]
    )
    return stage


def _verify(stage: Stage, tmp_path: Path, **options: Any) -> VerifyReport:
    image = tmp_path / "relay.qcow2"
    image.write_bytes(b"QFI\xfb")
    return verify(
        image,
        config=CONFIG,
        logs=tmp_path / "logs",
        accelerator=TCG,
        launcher=stage.launch,
        **options,
    )


def test_standard_boots_twice_and_runs_everything(stage: Stage, tmp_path: Path) -> None:
    report = _verify(stage, tmp_path)
    assert report.passed
    assert stage.events == [
        "boot fresh",
        "ready",
        "relayed",
        "power-cut",
        "off fresh",
        "boot second",
        "secret-missing",
        "off second",
    ]
    assert [each.name for each in report.checks][0] == "sealed: no-logs"
    assert report.boots == {"fresh": 12.5, "power-cut": 12.5}


def test_short_boots_once(stage: Stage, tmp_path: Path) -> None:
    report = _verify(stage, tmp_path, profile="short")
    assert report.passed
    assert stage.events == ["boot fresh", "ready", "relayed", "off fresh"]


def test_logs_of_a_good_image_are_not_kept(stage: Stage, tmp_path: Path) -> None:
    report = _verify(stage, tmp_path)
    assert report.logs is None
    assert not (tmp_path / "logs").exists()


def test_a_failed_check_keeps_the_logs_and_the_others_go_on(stage: Stage, tmp_path: Path) -> None:
    stage.fails = {"relayed"}
    stage.guest.answers = {"journalctl -u relay-agent": "agent said this\n"}
    report = _verify(stage, tmp_path)
    assert [each.name for each in report.failed] == ["relayed"]
    assert report.failed[0].evidence == "relayed went wrong"
    assert "power-cut" in stage.events
    assert report.logs == str(tmp_path / "logs")
    assert (tmp_path / "logs" / "fresh" / "agent.log").read_text() == "agent said this\n"
    assert (tmp_path / "logs" / "fresh" / "serial.log").exists()


def test_a_guest_that_is_not_ready_is_not_asked_further(stage: Stage, tmp_path: Path) -> None:
    stage.fails = {"ready"}
    report = _verify(stage, tmp_path)
    results = {each.name: each.evidence for each in report.checks}
    assert results["relayed"] == results["power-cut"] == "not run: `ready` failed"
    assert "relayed" not in stage.events
    assert "secret-missing" in stage.events
    assert report.seconds_to_ready is None


def test_a_guest_that_does_not_start_fails_its_checks(stage: Stage, tmp_path: Path) -> None:
    stage.refuses = True
    report = _verify(stage, tmp_path)
    assert [each.name for each in report.failed] == ["ready", "relayed", "power-cut", "secret-missing"]
    assert report.failed[0].evidence == "not run: QEMU failed with exit code 1"


def test_kept_logs_hold_no_credential(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.fails = {"relayed"}
    seen: list[str] = []

    def run(command: str, **_options: Any) -> Finished:
        password = seen[0] if seen else ""
        return Finished((command,), 0, f"password {password}\n", "")

    def remember(relay: Relay) -> str:
        seen.append(relay.logins.first.password)
        return "seen"

    monkeypatch.setattr(stage.guest, "run", run)
    first = (Check("ready", "ready", remember), *runner.FIRST_BOOT["standard"][1:])
    monkeypatch.setattr(runner, "FIRST_BOOT", {"standard": first})
    _verify(stage, tmp_path)
    kept = (tmp_path / "logs" / "fresh" / "agent.log").read_text()
    assert kept == "password (a credential)\n"


def test_an_image_that_cannot_be_looked_into_is_not_called_sealed(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_image: Path, image_format: str) -> list[Assertion]:
        raise BuilderError("no file system")

    monkeypatch.setattr(hygiene, "inspect_image", refuse)
    report = _verify(stage, tmp_path)
    assert len(report.failed) == len(hygiene.ASSERTIONS)
    assert all(each.evidence == "not run: no file system" for each in report.failed)


def test_a_missing_image_is_an_error_and_not_a_report(tmp_path: Path) -> None:
    with pytest.raises(BuilderError, match="does not exist"):
        verify(tmp_path / "nothing.qcow2", config=CONFIG)

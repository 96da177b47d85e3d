"""The report of a verification: what passes, what it says, and that it survives JSON."""

from __future__ import annotations

import json

from builder.verify import COLUMNS, CheckResult, VerifyReport, read_report

GOOD = CheckResult("relayed", "a message arrives", True, "TLSv1.3, AUTH PLAIN", 2.04)
BAD = CheckResult("power-cut", "a power cut loses no message", False, "1 of 10 messages is gone", 61.0)


def _report(*checks: CheckResult, boots: dict[str, float] | None = None) -> VerifyReport:
    return VerifyReport(
        image="relay.qcow2",
        profile="full",
        accelerator="tcg",
        started="2026-11-22T18:00:00+00:00",
        seconds=190.0,
        checks=checks,
        boots=boots or {},
        logs="logs",
    )


def test_one_failed_check_fails_the_image() -> None:
    report = _report(GOOD, BAD)
    assert not report.passed
    assert report.failed == (BAD,)


def test_a_report_without_checks_is_no_proof() -> None:
    assert not _report().passed


def test_the_summary_counts_and_says_how_fast_it_was_ready() -> None:
    report = _report(GOOD, BAD, boots={"fresh": 41.3})
    assert report.summary == "1 of 2 checks passed in 3 min 10 s; ready 41 s after power-on"
    assert report.seconds_to_ready == 41.3


def test_the_summary_without_a_boot_says_nothing_of_speed() -> None:
    assert _report(GOOD).summary == "1 of 1 checks passed in 3 min 10 s"


def test_rows_have_all_columns_and_shout_a_failure() -> None:
    rows = _report(GOOD, BAD).rows()
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert [row[1] for row in rows] == ["ok", "FAILED"]


def test_long_evidence_is_cut_in_the_table_only_where_it_passed() -> None:
    long = "word " * 100
    passed = CheckResult("a", "b", True, long)
    failed = CheckResult("a", "b", False, long)
    rows = _report(passed, failed).rows()
    assert len(rows[0][3]) == 160
    assert rows[1][3] == long


def test_a_report_survives_json() -> None:
    report = _report(GOOD, BAD, boots={"fresh": 41.3})
    text = json.dumps(report.to_json())
    assert json.loads(text) == report.to_json()
    assert json.loads(text)["passed"] is False
    assert read_report(json.loads(text)) == report

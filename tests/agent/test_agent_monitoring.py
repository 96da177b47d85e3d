"""Lint docs/monitoring: promtool for rules and metrics, Grafana's linter and its rules for the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from relay_agent import metrics
from relay_agent.board import Board
from relay_agent.places import Places
from relay_agent.traffic import Traffic

from tests.agent.test_agent_health import fill

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "docs" / "monitoring"
TOOLS = ROOT / ".tools" / "bin"
DASHBOARD: Any = json.loads((MONITORING / "dashboard.json").read_text())
RULES: Any = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
PANELS: list[Any] = DASHBOARD["panels"]
TARGETS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
_SUFFIXES = {"counter": ("_total",), "info": ("_info",), "histogram": ("_bucket", "_count", "_sum")}
EXPORTED = {
    name + suffix for name, (kind, _) in metrics.FAMILIES.items() for suffix in _SUFFIXES.get(kind, ("",))
}


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool") or shutil.which("promtool", path=str(TOOLS))
    if found is None:
        pytest.fail("promtool is missing: run `tools/get-promtool.sh`")
    return found


@pytest.fixture
def dashboard_linter() -> str:
    found = shutil.which("dashboard-linter") or shutil.which("dashboard-linter", path=str(TOOLS))
    if found is None:
        # It takes Go and minutes to build; what it checks is checked below in any case.
        pytest.skip("dashboard-linter has not been built: `make dashboard-linter`")
    return found


def run(*command: str | Path, stdin: str | None = None, cwd: Path = MONITORING) -> str:
    done = subprocess.run(
        [str(word) for word in command], input=stdin, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_alert_rules(promtool: str) -> None:
    assert f"SUCCESS: {len(RULES)} rules found" in run(promtool, "check", "rules", "alerts.yaml")


def test_the_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", "alerts-test.yaml")


def test_promtool_accepts_every_query_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:query{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, (_, expr) in enumerate(TARGETS)
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(TARGETS)} rules found" in run(promtool, "check", "rules", path)


def test_promtool_accepts_names_and_help_of_the_metrics(promtool: str, places: Places) -> None:
    """Promtool reads the older text format, in which a family is called as its samples are."""
    board = Board(places, Traffic(), version="0.1.0")
    fill(board)
    page = []
    for line in metrics.render(board).splitlines():
        words = line.split(" ", 3)
        if words[:2] in (["#", "UNIT"], ["#", "EOF"]):
            continue
        if words[0] == "#":
            kind = metrics.FAMILIES[words[2]][0]
            words[2] += {"counter": "_total", "info": "_info"}.get(kind, "")
            if words[1] == "TYPE":
                words[3] = {"info": "gauge", "stateset": "gauge"}.get(kind, kind)
        page.append(" ".join(words))
    run(promtool, "check", "metrics", stdin="\n".join(page) + "\n")


def names_in(expr: str) -> set[str]:
    return set(re.findall(r"\brelay_[a-z_]+(?=[{\[ )]|$)", re.sub(r"\{[^}]*\}", "{}", expr)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_uses_exported_metrics_and_says_what_to_do(rule: dict[str, Any]) -> None:
    used = names_in(rule["expr"])
    assert used <= EXPORTED
    assert used or "up{" in rule["expr"]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert "{{ $labels." in rule["annotations"]["summary"]


def test_grafanas_dashboard_linter_finds_nothing(dashboard_linter: str) -> None:
    assert "not editable" in run(dashboard_linter, "lint", "--strict", "dashboard.json")


@pytest.mark.parametrize(("title", "expr"), TARGETS, ids=[title for title, _ in TARGETS])
def test_a_query_keeps_the_rules_of_grafanas_dashboard_linter(title: str, expr: str) -> None:
    used = names_in(expr)
    assert used
    assert used <= EXPORTED
    # Rules target-job, target-instance, target-rate-interval, target-counter-agg.
    for selector in re.findall(r"\{([^}]*)\}", expr):
        assert 'job=~"$job"' in selector
        assert 'instance=~"$instance"' in selector
    assert all(window == "$__rate_interval" for window in re.findall(r"\[([^\]]+)\]", expr))
    for name in re.findall(r"\b(relay_\w+_(?:total|bucket|count|sum))\b", expr):
        assert re.search(rf"(rate|increase)\({name}", expr)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_keeps_the_rules_of_grafanas_dashboard_linter(panel: dict[str, Any]) -> None:
    # Rules panel-title-description, panel-units, panel-datasource, panel-no-targets.
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


def test_the_dashboard_has_the_usual_variables_and_no_fixed_source() -> None:
    # Rules template-datasource, template-job, template-instance, uneditable-dashboard.
    variables = {item["name"]: item for item in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        assert variables[name]["multi"]
        assert variables[name]["allValue"] == ".+"
        assert "relay_agent_info" in variables[name]["definition"]
    assert DASHBOARD["editable"] is False
    assert DASHBOARD["uid"] == "smtp-relay"


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells = [
        {(x, y) for x in range(box["x"], box["x"] + box["w"]) for y in range(box["y"], box["y"] + box["h"])}
        for box in (panel["gridPos"] for panel in PANELS)
    ]
    assert all(not (one & other) for one, other in combinations(cells, 2))
    assert all(x < 24 for cell in cells for x, _ in cell)


def test_the_dashboard_shows_every_metric_that_matters() -> None:
    shown = {name for _, expr in TARGETS for name in names_in(expr)}
    alerted = {name for rule in RULES for name in names_in(rule["expr"])}
    left_out = {
        "relay_agent_info",
        "relay_log_lines_total",
        "relay_log_restarts_total",
        "relay_send_rate_limit_messages_per_second",
        "relay_submission_users",
        "relay_queue_size_bytes",
        "relay_credential_rotations_total",
        "relay_credential_refused_total",
        "relay_delivery_delay_seconds_count",
        "relay_delivery_delay_seconds_sum",
    }
    assert EXPORTED - shown - alerted == left_out

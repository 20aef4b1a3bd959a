"""The alert rules and the Grafana dashboard, by the tools of their own and against the metrics that really exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.cog.runtime import panelcfg_config
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from clinical_conductor.metrics import render_metrics
from clinical_conductor.settings import Settings
from tests.operations.conftest import Nights
from tests.operations.programs import program

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
BOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "trialsync.json").read_text(encoding="utf-8"))

Exposed = dict[str, dict[str, set[str]]]
"""Names of metrics, with their labels and the values these have."""


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


RULES = [rule for group in load(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]
RULE_TESTS = load(PROMETHEUS / "alerts_test.yml")["tests"]


@pytest.fixture(scope="module")
def metrics(kept: Nights) -> bytes:
    """What `serve` and `metrics --textfile` write, with every family in it."""
    kept.conn.execute(
        "insert into dw_quality_results (batch_id, check_name, severity, failures, passed, seconds) "
        "values (gen_random_uuid(), 'keys', 'error', 1, false, 0.1), "
        "(gen_random_uuid(), 'names', 'warning', 1, false, 0.1)"
    )
    text = render_metrics(Settings(database_url=kept.url))
    kept.conn.execute("delete from dw_quality_results")
    return text


@pytest.fixture(scope="module")
def exposed(metrics: bytes) -> Exposed:
    """Every metric there is, and `up`, which Prometheus adds, as it adds its labels to all of them."""
    found: Exposed = {"up": {"job": {"trialsync"}}}
    for family in text_string_to_metric_families(metrics.decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return {name: {"job": {"trialsync"}, "instance": set()} | labels for name, labels in found.items()}


def check_expression(text: str, exposed: Exposed) -> None:
    """It is PromQL, and every metric, label and value that it asks for exists."""
    nodes: list[Any] = []
    promql_parser.walk(promql_parser.parse(text), nodes.append)
    selectors = [node for node in nodes if isinstance(node, promql_parser.VectorSelector)]
    assert selectors
    for selector in selectors:
        assert selector.name in exposed, f"there is no metric {selector.name}"
        for matcher in selector.matchers.matchers:
            values = exposed[selector.name].get(matcher.name)
            assert values is not None, f"{selector.name} has no label {matcher.name}"
            regex = matcher.op in (promql_parser.MatchOp.Re, promql_parser.MatchOp.NotRe)
            for wanted in matcher.value.split("|") if regex else [matcher.value]:
                assert wanted in values, f"{selector.name} is never {matcher.name}={wanted}"
    labels = {label for selector in selectors for label in exposed[selector.name]} | {"le"}
    for node in nodes:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            assert set(node.modifier.labels) <= labels, node.prettify()


# -- alert rules -------------------------------------------------------------------------------------------------------


def promtool(*arguments: str, stdin: bytes | None = None) -> None:
    """promtool has nothing to say against it."""
    done = subprocess.run([program("promtool"), *arguments], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_prometheus_accepts_its_configuration_and_rules(tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    token = tmp_path / "token"
    token.touch()
    text = (PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/trialsync_token", str(token)), encoding="utf-8")
    promtool("check", "config", "--lint-fatal", str(tmp_path / "prometheus.yml"))


def test_prometheus_accepts_the_metrics(metrics: bytes) -> None:
    promtool("check", "metrics", stdin=metrics)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", str(PROMETHEUS / "alerts_test.yml"))


def test_every_alert_is_tested_to_fire_and_not_to_fire() -> None:
    cases = [case for test in RULE_TESTS for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in RULES}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_series_of_the_rule_tests_look_like_real_ones(exposed: Exposed) -> None:
    for series in (series["series"] for test in RULE_TESTS for series in test["input_series"]):
        selector = promql_parser.parse(series)
        assert {matcher.name for matcher in selector.matchers.matchers} <= exposed[selector.name].keys(), series


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_reads_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any], exposed: Exposed) -> None:
    check_expression(rule["expr"], exposed)
    assert re.fullmatch(r"TrialSync[A-Za-z]+", rule["alert"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "mend"}


# -- Grafana -----------------------------------------------------------------------------------------------------------


def lost(written: Any, understood: Any, place: str = "") -> Iterator[str]:
    """What is in `written` and not in `understood`, which may hold more: Grafana's defaults."""
    if isinstance(written, dict):
        for key, value in written.items():
            if key in understood:
                yield from lost(value, understood[key], f"{place}/{key}")
            else:
                yield f"{place}/{key}"
    elif isinstance(written, list):
        assert len(written) == len(understood), place
        for number, (one, other) in enumerate(zip(written, understood, strict=True)):
            yield from lost(one, other, f"{place}/{number}")
    elif written != understood:
        yield place


def test_grafana_understands_every_field_of_the_dashboard() -> None:
    register_default_plugins()
    understood = json.loads(JSONEncoder().encode(Dashboard.from_json(BOARD)))
    assert list(lost(BOARD, understood)) == []
    for panel in BOARD["panels"]:
        assert panelcfg_config(panel["type"]), f"Grafana has no panel {panel['type']}"


@pytest.mark.parametrize("panel", BOARD["panels"], ids=lambda panel: panel["title"])
def test_panel_reads_metrics_that_exist(panel: dict[str, Any], exposed: Exposed) -> None:
    source = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    assert panel["datasource"]["uid"] == source["uid"]
    assert panel["targets"]
    for target in panel["targets"]:
        check_expression(target["expr"], exposed)


def test_panels_lie_side_by_side() -> None:
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells

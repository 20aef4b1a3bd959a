"""What deploy/ ships is right: against the metrics, commands and settings that exist, and by a restore really done."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from clinical_conductor.alerts import ALERT_SETTINGS
from clinical_conductor.database import connect, migrate, pending
from clinical_conductor.embedded import EmbeddedServer
from clinical_conductor.jobs_config import check_cron
from clinical_conductor.metrics import render_metrics
from clinical_conductor.operations_cli import SERVE_SETTINGS
from clinical_conductor.settings import Settings
from tests.fixtures.postgres import VERSION, PostgresServer
from tests.operations.conftest import Nights

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
BOARD = DEPLOY / "grafana" / "dashboards" / "trialsync.json"
KNOWN = {item.metadata["setting"].env for item in fields(Settings)} | {
    setting.env for setting in (*ALERT_SETTINGS.values(), *SERVE_SETTINGS.values())
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# -- Prometheus and Grafana -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exposed(kept: Nights) -> dict[str, set[str]]:
    """Every metric that exists, with its labels."""
    kept.conn.execute(
        "insert into dw_quality_results (batch_id, check_name, severity, failures, passed, seconds) "
        "values (gen_random_uuid(), 'keys', 'error', 1, false, 0.1)"
    )
    text = render_metrics(Settings(database_url=kept.url)).decode()
    kept.conn.execute("delete from dw_quality_results")
    found: dict[str, set[str]] = {}
    for kind in re.findall(r"^# TYPE (\S+)", text, re.M):
        found[kind] = set()
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.M):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def check_expression(text: str, exposed: dict[str, set[str]]) -> None:
    names = set(re.findall(r"trialsync_\w+", text))
    assert names or "up{" in text
    assert names <= exposed.keys(), names - exposed.keys()
    for name, selector in re.findall(r"(trialsync_\w+)\{([^}]*)\}", text):
        assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= exposed[name], (name, selector)
    for opening, closing in ("()", "[]", "{}"):
        assert text.count(opening) == text.count(closing)


def test_alert_rules_have_the_shape_prometheus_wants(exposed: dict[str, set[str]]) -> None:
    rules = [rule for group in load(RULES)["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert re.fullmatch(r"TrialSync[A-Za-z]+", rule["alert"])
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "mend"} == set(rule["annotations"])
        check_expression(rule["expr"], exposed)


def test_rules_ask_what_was_promised() -> None:
    text = RULES.read_text(encoding="utf-8")
    for part in ("scheduled_runs_since_success > 2", "histogram_quantile(0.95", "> 2\n", "> 300", "< 0.99"):
        assert part in text
    if shutil.which("promtool"):
        subprocess.run(["promtool", "check", "rules", str(RULES)], check=True, capture_output=True)


def test_grafana_dashboard_reads_metrics_that_exist(exposed: dict[str, set[str]]) -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    source = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["datasource"]["uid"] == source["uid"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["targets"]
        for target in panel["targets"]:
            check_expression(target["expr"], exposed)


# -- containers, units, workflow ---------------------------------------------------------------------------------------


def test_dockerfile_is_pinned_and_runs_as_nobody_in_particular() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    for line in (line for line in lines if line.startswith("FROM")):
        assert re.match(r"FROM python:3\.\d+\.\d+-slim-\w+( AS \w+)?$", line)
    text = "\n".join(lines)
    assert text.index("USER 10001") < text.index("ENTRYPOINT")
    assert "HEALTHCHECK" in text
    assert "PASSWORD" not in text
    assert "KEY" not in text
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        for name in source.split():
            assert (ROOT / name).exists(), name


def test_compose_is_pinned_private_and_knows_the_settings() -> None:
    compose = load(DEPLOY / "compose.yaml")
    assert set(compose["services"]) == {"postgres", "trialsync", "prometheus", "grafana"}
    for name, service in compose["services"].items():
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", service["image"]), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), volume
    ours = compose["services"]["trialsync"]
    assert set(ours["environment"]) <= KNOWN
    assert ours["read_only"] is True
    assert ours["cap_drop"] == ["ALL"]
    assert (DEPLOY / ours["build"]["context"] / ours["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


@pytest.mark.parametrize("name", ["trialsync.service", "trialsync-serve.service"])
def test_units_are_confined(name: str) -> None:
    text = (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
    for line in (
        "User=trialsync",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "UMask=0077",
        "CapabilityBoundingSet=",
    ):
        assert f"\n{line}\n" in text


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd here; the units' lines are tested above"
)
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text(encoding="utf-8").replace("/opt/trialsync/bin/trialsync-etl", "/bin/true")
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    assert {path.suffix for path in tmp_path.iterdir()} == {".service", ".timer"}
    if shutil.which("systemd-analyze"):
        command = ["systemd-analyze", "verify", "--man=no", *(str(path) for path in tmp_path.iterdir())]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if str(tmp_path) in line] == []


def test_cron_example_has_valid_times_and_no_secret() -> None:
    lines = (DEPLOY / "crontab.example").read_text(encoding="utf-8").splitlines()
    jobs = [line for line in lines if line and line[0] not in "#" and not re.match(r"\w+=", line)]
    assert len(jobs) == 3
    for line in jobs:
        check_cron(" ".join(line.split()[:5]))


def test_nightly_workflow_keeps_secrets_out_of_commands() -> None:
    path = ROOT / ".github" / "workflows" / "nightly.yml"
    workflow = load(path)
    (job,) = workflow["jobs"].values()
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    assert set(job["env"]) - {"RESOURCES"} <= KNOWN
    for step in job["steps"]:
        assert "${{" not in step.get("run", ""), step
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
    artifact = job["steps"][-1]["with"]["path"].split()
    assert artifact == ["results.json", "dashboard.html"]


def test_scripts_stop_at_the_first_error() -> None:
    for name in ("backup.sh", "restore.sh"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        assert "\nset -euo pipefail\n" in text
        assert os.access(DEPLOY / name, os.X_OK)
    if shutil.which("shellcheck"):
        scripts = [str(path) for path in DEPLOY.glob("*.sh")]
        subprocess.run(["shellcheck", "--external-sources", *scripts], check=True, cwd=ROOT, capture_output=True)


# -- backup and restore, really done -----------------------------------------------------------------------------------


def contents(conn: psycopg.Connection[Any]) -> dict[str, tuple[int, str]]:
    """Every table's rows: how many, and a fingerprint."""
    names = conn.execute("select tablename from pg_tables where schemaname = 'public' order by 1").fetchall()
    found = {}
    for (name,) in names:
        row = conn.execute(
            f"select count(*), coalesce(md5(string_agg(t::text, '|' order by t::text)), '') from {name} as t"
        ).fetchone()
        assert row is not None
        found[name] = row
    return found


@pytest.fixture
def environment(postgres_server: PostgresServer) -> dict[str, str]:
    programs = EmbeddedServer(postgres_server.home / "postgres", VERSION).programs
    return os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}


def run_script(
    name: str, *arguments: str, environment: dict[str, str], **settings: str
) -> subprocess.CompletedProcess[str]:
    command = [str(DEPLOY / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment | settings, timeout=300)


def test_backup_is_restored_whole(
    kept: Nights, postgres_server: PostgresServer, environment: dict[str, str], tmp_path: Path
) -> None:
    kept.conn.execute(
        "insert into dim_studies_staging (data, source_id, source_instance_id, parent_source_id) "
        "select jsonb_build_object('id', n, 'name', 'Größe ' || n), n::text, 1, '' from generate_series(1, 50) as n"
    )
    try:
        done = run_script("backup.sh", str(tmp_path), environment=environment, DATABASE_URL=kept.url)
        assert done.returncode == 0, done.stderr
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o077 == 0
        with postgres_server.fresh() as url:
            done = run_script("restore.sh", str(file), environment=environment, DATABASE_URL=url)
            assert done.returncode == 0, done.stderr
            assert f"restored: {4 * len(kept.snapshot.active)} runs" in done.stdout
            with connect(url) as conn:
                assert contents(conn) == contents(kept.conn)
                assert pending(conn) == []
                assert migrate(conn) == []
            again = run_script("restore.sh", str(file), environment=environment, DATABASE_URL=url)
            assert again.returncode == 1
            assert "holds a ledger already" in again.stderr
    finally:
        kept.conn.execute("delete from dim_studies_staging")


def test_broken_backup_restores_nothing(
    postgres_server: PostgresServer, kept: Nights, environment: dict[str, str], tmp_path: Path
) -> None:
    run_script("backup.sh", str(tmp_path), environment=environment, DATABASE_URL=kept.url)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with postgres_server.fresh() as url:
        assert run_script("restore.sh", str(file), environment=environment, DATABASE_URL=url).returncode != 0
        with connect(url) as conn:
            assert contents(conn) == {}


def test_only_the_newest_backups_are_kept_and_a_failed_one_leaves_nothing(
    kept: Nights, environment: dict[str, str], tmp_path: Path
) -> None:
    for day in range(1, 6):
        (tmp_path / f"trialsync-2020010{day}T000000Z.dump").touch()
    (tmp_path / "other.dump").touch()
    done = run_script("backup.sh", str(tmp_path), environment=environment, DATABASE_URL=kept.url, KEEP="3")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[:3] == ["other.dump", "trialsync-20200104T000000Z.dump", "trialsync-20200105T000000Z.dump"]
    assert len(names) == 4
    away = "postgresql://nobody@127.0.0.1:1/none"
    assert run_script("backup.sh", str(tmp_path), environment=environment, DATABASE_URL=away).returncode != 0
    assert run_script("backup.sh", str(tmp_path), environment={**environment, "DATABASE_URL": ""}).returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == names

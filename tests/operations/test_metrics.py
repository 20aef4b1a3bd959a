"""Metrics follow Prometheus' conventions, agree with the ledger, and have no label that names a person or a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.metrics import render_metrics, write_textfile
from clinical_conductor.settings import Settings
from tests.operations.conftest import NOW, Nights
from tests.operations.seeding import FAILURES

LABELS = {
    "resource": {row.resource for row in ENDPOINTS.values()},
    "table": {row.table for row in ENDPOINTS.values()},
    "instance": {""},
    "status": {"running", "success", "failed", "skipped"},
    "health": {"failed", "stuck", "overdue", "attention", "running", "ok", "skipped", "never", "inactive"},
    "outcome": {"inserted", "updated", "unchanged", "deleted", "rejected", "duplicate"},
    "state": {"active", "idle", "idle in transaction"},
    "version": {"1.2.3"},
}


@pytest.fixture(scope="module")
def text(kept: Nights) -> str:
    return render_metrics(Settings(database_url=kept.url, parallel_jobs=7), version="1.2.3", now=NOW).decode()


@pytest.fixture(scope="module")
def families(text: str) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    samples = [sample for family in families.values() for sample in family.samples]
    return float(next(s.value for s in samples if s.name == name and labels.items() <= s.labels.items()))


def test_names_and_units_follow_the_conventions(families: dict[str, Any]) -> None:
    for name, family in families.items():
        assert name.startswith("trialsync_"), name
        assert family.documentation.endswith("."), name
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total")
            elif family.type == "gauge":
                assert not sample.name.endswith(("_total", "_count", "_sum"))
        assert not any(part in name for part in ("_minutes", "_ms", "_milliseconds", "_kb", "_percent"))


def test_every_metric_is_documented(families: dict[str, Any]) -> None:
    written = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    assert [name for name in families if f"`{name}" not in written] == []


def test_labels_name_jobs_tables_and_states_only(families: dict[str, Any]) -> None:
    for family in families.values():
        for sample in family.samples:
            for label, text in sample.labels.items():
                if label in ("le", "procedure", "check", "severity"):
                    continue
                assert text in LABELS[label], (sample.name, label, text)


def test_numbers_are_those_of_the_ledger(families: dict[str, Any], kept: Nights) -> None:
    active = [row for row in ENDPOINTS.values() if row.active]
    assert value(families, "trialsync_ledger_up") == 1
    assert value(families, "trialsync_jobs", health="failed") == len(FAILURES)
    assert value(families, "trialsync_jobs", health="inactive") == len(ENDPOINTS) - len(active)
    assert value(families, "trialsync_job_success_ratio") == pytest.approx(1 - 5 / len(active))
    assert value(families, "trialsync_runs_total", resource="invoices", status="failed") == 1
    assert value(families, "trialsync_runs_total", resource="invoices", status="success") == 3
    assert value(families, "trialsync_run_duration_seconds_count", resource="invoices") == 4
    assert value(families, "trialsync_parents_owed", resource="patient_allergies") == 48_211
    assert value(families, "trialsync_quarantined_records", resource="patients") == 3
    assert value(families, "trialsync_parallel_jobs_limit") == 7
    assert value(families, "trialsync_job_up", resource="invoices") == 0
    assert value(families, "trialsync_job_up", resource="sites") == 1
    row = kept.conn.execute(
        "select sum(records_updated), sum(requests), sum(retries), "
        "extract(epoch from max(completed_at) filter (where run_status = 'success') at time zone 'utc') "
        "from dw_etl_runs where job_id = 168"
    ).fetchone()
    assert row is not None
    assert value(families, "trialsync_records_total", resource="invoices", outcome="updated") == row[0]
    assert value(families, "trialsync_requests_total", resource="invoices") == row[1]
    assert value(families, "trialsync_request_retries_total", resource="invoices") == row[2]
    success = value(families, "trialsync_job_last_success_timestamp_seconds", resource="invoices")
    assert success == pytest.approx(float(row[3]), abs=0.01)


def test_latency_histogram_is_cumulative_and_complete(families: dict[str, Any], kept: Nights) -> None:
    samples = families["trialsync_request_duration_seconds"].samples
    buckets = [sample.value for sample in samples if sample.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == value(families, "trialsync_request_duration_seconds_count")
    row = kept.conn.execute("select sum(requests), sum(request_seconds) from dw_etl_runs").fetchone()
    assert row is not None
    assert buckets[-1] == row[0]
    assert value(families, "trialsync_request_duration_seconds_sum") == pytest.approx(row[1])


def test_empty_ledger_has_metrics(database: str) -> None:
    text = render_metrics(Settings(database_url=database)).decode()
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert value(found, "trialsync_job_success_ratio") == 1
    assert value(found, "trialsync_request_duration_seconds_count") == 0


def test_database_that_is_away_is_a_metric() -> None:
    text = render_metrics(Settings(database_url="postgresql://nobody@127.0.0.1:1/none"), version="1.2.3").decode()
    assert "trialsync_ledger_up 0.0" in text
    assert 'trialsync_build_info{version="1.2.3"} 1.0' in text
    assert "127.0.0.1" not in text


def test_textfile_is_replaced_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "trialsync.prom"
    path.write_text("old")
    with path.open() as reader:
        write_textfile(path, b"new\n")
        assert reader.read() == "old"
    assert path.read_text() == "new\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_textfile(tmp_path / "absent" / "x.prom", b"new\n")

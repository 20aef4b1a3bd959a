"""The README's first command: everything that is active, twice, with nothing configured."""

from __future__ import annotations

import json
import subprocess

import psycopg

from clinical_conductor.catalog import ENDPOINTS
from tests.e2e.conftest import CommandLine

ACTIVE = [row for row in ENDPOINTS.values() if row.active]


def test_the_demo_loads_every_active_job_and_the_second_time_changes_nothing(etl: CommandLine) -> None:
    # A configured database must never be touched by a demo: this one would refuse.
    etl.settings = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "CC_API_BASE_URL": "https://ccs.example.com",
    }
    try:
        first = etl("demo", "--results", "first.json")
        assert first.returncode == 0, first.stdout + first.stderr
        jobs = {job["job_id"]: job for job in json.loads((etl.cwd / "first.json").read_text())["jobs"]}
        assert set(jobs) == {row.job_id for row in ACTIVE}
        assert {job["status"] for job in jobs.values()} == {"success"}
        assert all(job["records_read"] > 0 for job in jobs.values())
        assert "74 jobs: 74 success" in first.stdout
        assert "db url" in first.stderr

        again = etl("demo", "--results", "again.json")
        assert again.returncode == 0, again.stdout + again.stderr
        assert " 0 inserted, 0 updated, 0 deleted " in again.stdout
        assert all(
            job["inserted"] == job["updated"] == 0 for job in json.loads((etl.cwd / "again.json").read_text())["jobs"]
        )

        etl.settings = {}
        url = etl("db", "url").stdout.strip()
        with psycopg.connect(url) as conn:
            for table in {row.table for row in ACTIVE}:
                assert conn.execute(f"select exists (select from {table})").fetchone() == (True,), table
            assert conn.execute("select instance_name, is_active from dw_api_credentials").fetchall() == [
                ("demo", True)
            ]
        assert "success" in etl("status", "--job-id", "2").stdout
    finally:
        etl.settings = {}
        stopped = etl("db", "stop")
    assert stopped.returncode == 0
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(etl.cwd) not in running

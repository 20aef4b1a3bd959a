"""Units, cron lines and scripts of deploy/ are right: by systemd's own tool, and by a restore really done.

The rest of deploy/ is tested in tests/operations/test_prometheus.py and tests/packaging/test_containers.py, and by the
lint session of noxfile.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from clinical_conductor.cron import check_cron
from clinical_conductor.database import connect
from clinical_conductor.embedded import EmbeddedServer
from clinical_conductor.migrations import migrate, pending
from clinical_conductor.operations_cli import SERVE_SETTINGS
from clinical_conductor.settings import Settings
from tests.fixtures.postgres import VERSION, PostgresServer
from tests.operations.conftest import Nights
from tests.operations.programs import program

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KNOWN = {item.metadata["setting"].env for item in fields(Settings)} | {
    setting.env for setting in SERVE_SETTINGS.values()
}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# -- units, cron, workflow ---------------------------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The units of a machine on which the command line is installed."""
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text(encoding="utf-8").replace("/opt/trialsync/bin/trialsync-etl", "/bin/true")
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    return sorted(str(path) for path in tmp_path.iterdir())


def test_systemd_accepts_the_units(units: list[str]) -> None:
    command = [program("systemd-analyze"), "verify", "--man=no", *units]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if any(unit in line for unit in units)] == []


@pytest.mark.parametrize("name", ["trialsync.service", "trialsync-serve.service"])
def test_units_are_confined(name: str) -> None:
    text = (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
    for line in ("User=trialsync", "NoNewPrivileges=yes", "ProtectSystem=strict", "UMask=0077"):
        assert f"\n{line}\n" in text


def test_systemd_finds_the_services_confined(units: list[str]) -> None:
    services = [unit for unit in units if unit.endswith(".service")]
    assert len(services) == 2
    command = [program("systemd-analyze"), "security", "--offline=yes", "--no-pager", "--threshold=40", *services]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cron_example_has_valid_times_and_no_secret() -> None:
    lines = (DEPLOY / "crontab.example").read_text(encoding="utf-8").splitlines()
    jobs = [line for line in lines if line and line[0] not in "#" and not re.match(r"\w+=", line)]
    assert len(jobs) == 3
    for line in jobs:
        check_cron(" ".join(line.split()[:5]))


def test_nightly_workflow_knows_the_settings_and_keeps_no_record() -> None:
    workflow = load(ROOT / ".github" / "workflows" / "nightly.yml")
    (job,) = workflow["jobs"].values()
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    assert set(job["env"]) - {"RESOURCES"} <= KNOWN
    for step in job["steps"]:
        assert "${{" not in step.get("run", ""), step
        assert re.search(r"@(v\d+|[0-9a-f]{40})$", step.get("uses", "@v0")), step
    artifact = job["steps"][-1]["with"]["path"].split()
    assert artifact == ["results.json", "dashboard.html"]


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


def test_old_client_finds_the_programs_of_a_server_on_this_machine(
    kept: Nights, environment: dict[str, str], tmp_path: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    programs = environment["PATH"].partition(":")[0]
    for name, line in (("psql", f'exec {programs}/psql "$@"'), ("pg_dump", "exit 1"), ("pg_restore", "exit 1")):
        (old / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (old / name).chmod(0o755)
    older = os.environ | {"PATH": f"{old}:{os.environ['PATH']}"}
    done = run_script("backup.sh", str(tmp_path / "kept"), environment=older, DATABASE_URL=kept.url)
    assert done.returncode == 0, done.stderr
    away = "postgresql://nobody@127.0.0.1:1/none"
    assert run_script("backup.sh", str(tmp_path / "new"), environment=older, DATABASE_URL=away).returncode != 0
    assert not (tmp_path / "new").exists()


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

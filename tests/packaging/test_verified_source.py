"""docs/verified-source.md does what it says: its code runs, and the files it names are a source by themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from clinical_conductor.simulator import Simulator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "verified-source.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def run(code: str, cwd: Path, upstream: Simulator, **more: str) -> subprocess.CompletedProcess[str]:
    """Run code against a simulator, in a process of its own."""
    env = {
        **os.environ,
        "CC_API_BASE_URL": upstream.base_url,
        "CC_API_KEY": upstream.api_key,
        "CC_API_RATE_LIMIT": "0",
        "DLT_DATA_DIR": str(cwd / "dlt"),
        "RUNTIME__LOG_LEVEL": "ERROR",
        "LOAD__DELETE_COMPLETED_JOBS": "true",
        **more,
    }
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_pages_code_runs_in_its_order(simulator: Simulator, tmp_path: Path) -> None:
    done = run(CODE, tmp_path, simulator)
    assert done.returncode == 0, done.stderr
    with duckdb.connect(str(tmp_path / "trials.duckdb"), read_only=True) as connection:
        tables = {row[0] for row in connection.execute("select table_name from duckdb_tables()").fetchall()}
        assert {"studies", "subjects", "study_milestones", "appointments", "patients"} <= tables
        columns = {row[0] for row in connection.execute("select column_name from duckdb_columns()").fetchall()}
        assert not [name for name in columns if name.startswith("guardian")]
        served = len(list(simulator.truth("subjects")))
        assert connection.execute("select count(*) from ccs.subjects").fetchone() == (served,)


def test_the_files_it_names_are_a_source_by_themselves(simulator: Simulator, tmp_path: Path) -> None:
    listed = re.search(r"^    (__init__\.py[\s\S]*?)\n\n", PAGE, re.MULTILINE)
    assert listed is not None
    folder = tmp_path / "clinical_conductor"
    folder.mkdir()
    for name in listed[1].split():
        shutil.copy(ROOT / "clinical_conductor" / name, folder / name)
    code = (
        "import clinical_conductor, sys\n"
        "from clinical_conductor import sample\n"
        "print(clinical_conductor.__file__, len(sample('sites', 3)), len(sample('subjects', 3)))\n"
        "print([name for name in ('psycopg', 'psycopg2', 'typer') if name in sys.modules])\n"
    )
    done = run(code, tmp_path, simulator, PYTHONPATH=str(tmp_path))
    assert done.stdout.splitlines() == [f"{folder / '__init__.py'} 3 3", "[]"], done.stderr


@pytest.mark.parametrize("word", re.findall(r"`([\w-]+)`", PAGE.split("beside them:")[1]))
def test_what_it_requires_is_what_the_project_requires(word: str) -> None:
    assert re.search(rf'"{word}[\[>"]', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))

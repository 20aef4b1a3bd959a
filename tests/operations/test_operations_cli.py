"""serve, metrics, dashboard, schedule and alerts as a person types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import requests

from clinical_conductor import cli
from clinical_conductor.catalog import Endpoint
from clinical_conductor.database import connect
from clinical_conductor.simulator import Simulator
from tests.fixtures.processes import free_port
from tests.operations.seeding import add_instance, add_run
from tests.operations.sinks import web_sink

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """Runs a command in an empty directory; its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("CC_", "DATABASE_", "ETL_", "ALERT_", "TRIALSYNC_", "LOG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", database)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jobs.yaml").write_text(
        "timezone: Europe/Zurich\ndefaults: {schedule: '0 2 * * *'}\njobs: {sites: {}, studies: {}}\n"
    )

    def call(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            code = cli.main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_schedule_set_listed_and_exported(main: Main, database: str) -> None:
    code, _, err = main("schedule", "--job-id", "2", "--cron", "30 4 * * sun")
    assert code == 0
    assert "studies: next run" in err
    code, out, _ = main("schedule", "list", "--json")
    rows = {row["resource"]: row for row in json.loads(out)}
    assert rows["studies"]["schedule"] == "30 4 * * sun"
    moment = datetime.strptime(rows["studies"]["next_run"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert moment.astimezone(ZoneInfo("Europe/Zurich")).strftime("%a %H:%M") == "Sun 04:30"
    assert " 04:30 CE" in main("schedule", "list")[1]
    assert rows["sites"]["schedule"] == "0 2 * * *"
    code, out, _ = main("schedule", "export", "--crontab", "--command", "/opt/t")
    assert "CRON_TZ=Europe/Zurich" in out
    assert "0 2 * * * /opt/t run --resources sites\n" in out
    assert "30 4 * * sun /opt/t run --resources studies\n" in out
    assert main("schedule", "--resource", "studies", "--disable")[2].endswith("runs only when it is asked for.\n")
    assert main("schedule", "--resource", "sites", "--cron", "")[0] == 0
    assert "No job has a schedule" in main("schedule", "list")[1]
    assert main("schedule", "--job-id", "1", "--timeout", "90")[0] == 0
    with connect(database) as conn:
        assert conn.execute("select timeout_seconds from dw_etl_jobs where id = 1").fetchone() == (90,)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("schedule",), "Say which job"),
        (("schedule", "--job-id", "1", "--resource", "sites", "--cron", "0 2 * * *"), "Say which job"),
        (("schedule", "--job-id", "1"), "Say what"),
        (("schedule", "--resource", "studis", "--cron", "0 2 * * *"), "studies"),
        (("schedule", "--job-id", "1", "--cron", "tomorrow"), "not a schedule"),
        (("alerts", "test"), "ALERT_EMAIL"),
        (("serve", "--host", "0.0.0.0"), "TRIALSYNC_TOKEN"),
        (("metrics", "--textfile", "/proc/none/x.prom"), "cannot be written"),
        (("dashboard", "--html", "/proc/none/x.html"), "cannot be written"),
    ],
)
def test_mistakes_end_with_2_and_say_what_to_do(main: Main, arguments: tuple[str, ...], says: str) -> None:
    code, _, err = main(*arguments)
    assert code == 2
    assert says in err


def test_metrics_and_dashboard_as_files(main: Main, tmp_path: Path) -> None:
    assert main("metrics", "--textfile", "trialsync.prom")[0] == 0
    assert "trialsync_ledger_up 1.0" in (tmp_path / "trialsync.prom").read_text()
    assert "trialsync_ledger_up 1.0" in main("metrics")[1]
    assert main("dashboard", "--html", "night.html")[0] == 0
    assert "Nothing ran in the last 24 hours" in (tmp_path / "night.html").read_text()


def test_alerts_are_tried_and_checked(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    with web_sink() as sink:
        monkeypatch.setenv("ALERT_SLACK_WEBHOOK", f"{sink.url}/hook")
        assert "Sent: Slack." in main("alerts", "test")[2]
        assert main("alerts", "check")[0] == 0
        sink.status = 500
        code, _, err = main("alerts", "test")
        assert code == 1
        assert "Not sent: Slack." in err


@pytest.fixture
def nobody_answers(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """An API that cannot be reached, so that every run fails at once."""
    for name, value in {
        "CC_API_BASE_URL": "http://127.0.0.1:1",
        "CC_API_KEY": "some-key",
        "ETL_MAX_RETRIES": "0",
        "TRIALSYNC_HOME": "home",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("nobody_answers")
def test_run_and_retry_tell_by_themselves(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    with web_sink() as sink:
        monkeypatch.setenv("ALERT_SLACK_WEBHOOK", f"{sink.url}/hook")
        monkeypatch.setenv("ALERT_PING_URL", f"{sink.url}/ping")
        code, _, err = main("run", "--resources", "sites", "--no-transform")
        assert code == 1
        assert "Told by Slack: 1 new, 0 over." in err
        code, out, err = main("retry", "--failed", "--no-transform")
        assert (code, "Told by Slack: 1 new, 0 over." in err) == (1, True)
        assert "mend    trialsync-etl retry --run-id 2\n" in out
        main("alerts", "check")
    paths = [path for _, path, _ in sink.got]
    assert paths == ["/hook", "/ping/fail", "/hook", "/ping/fail", "/ping/fail"]
    assert "sites failed: ConnectionTrouble (run 2)" in sink.got[2][2]


@pytest.mark.usefixtures("nobody_answers")
def test_a_run_without_a_database_is_told_once_and_so_is_its_return(
    main: Main, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_sink() as sink:
        monkeypatch.setenv("ALERT_SLACK_WEBHOOK", f"{sink.url}/hook")
        monkeypatch.setenv("ALERT_PING_URL", f"{sink.url}/ping")
        monkeypatch.setenv("DATABASE_URL", f"postgresql://etl:hunter2@127.0.0.1:{free_port()}/trialsync")
        code, out, err = main("run", "--all")
        assert code == 1
        assert "mend    trialsync-etl run\n" in out
        assert "Told by Slack: 1 new, 0 over." in err
        assert "Told" not in main("run", "--all")[2]
        monkeypatch.setenv("DATABASE_URL", database)
        assert "1 over" in main("run", "--resources", "sites", "--no-transform")[2]
    assert [path for _, path, _ in sink.got] == ["/hook", "/ping/fail", "/ping/fail", "/hook", "/ping/fail"]
    assert "no job could run: the database cannot be reached" in sink.got[0][2]
    assert "Over:\\n    The database could not be used" in sink.got[3][2]
    assert "hunter2" not in str(sink.got)


@pytest.mark.usefixtures("nobody_answers")
def test_an_alert_that_cannot_be_sent_changes_nothing_but_a_line(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = main("run", "--resources", "sites", "--no-transform")
    monkeypatch.setenv("ALERT_SLACK_WEBHOOK", "http://127.0.0.1:1/hook")
    told = main("run", "--resources", "sites", "--no-transform")
    assert told[0] == alone[0] == 1
    assert "Not told by Slack. Try it with: trialsync-etl alerts test\n" in told[2]
    monkeypatch.setenv("ALERT_EMAIL", "oncall@example.com")
    assert "ALERT_EMAIL and ALERT_SMTP_URL belong together" in main("run", "--resources", "sites", "--no-transform")[2]


@pytest.mark.usefixtures("nobody_answers")
def test_without_the_extra_a_run_says_so_in_one_line_and_tells_who_needs_none(
    main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with web_sink() as sink:
        monkeypatch.setenv("ALERT_EMAIL", "oncall@example.com")
        monkeypatch.setenv("ALERT_SMTP_URL", "smtp://127.0.0.1:1")
        monkeypatch.setenv("ALERT_PING_URL", f"{sink.url}/ping")
        code, _, err = main("run", "--resources", "sites", "--no-transform")
        assert code == 1
        assert [line for line in err.splitlines() if "alert" in line or "told" in line] == [
            "Nobody is told by e-mail or Slack: apprise is not installed. pip install 'trialsync[serve]'"
        ]
        assert [path for _, path, _ in sink.got] == ["/ping/fail"]
        assert main("alerts", "check")[0] == main("alerts", "test")[0] == 2


@pytest.mark.parametrize("channel", [{}, {"ALERT_PING_URL": "http://127.0.0.1:1/ping"}])
def test_where_nobody_is_told_nothing_is_loaded_for_it(tmp_path: Path, channel: dict[str, str]) -> None:
    script = (
        "import atexit, sys; from clinical_conductor.cli import main; atexit.register(lambda: "
        "print([name for name in ('alerts', 'channels') if f'clinical_conductor.{name}' in sys.modules]));"
        "main(['run', '--resources', 'sites'])"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CC_", "DATABASE_", "ALERT_"))}
    environment = {
        "CC_API_BASE_URL": "http://127.0.0.1:1",
        "CC_API_KEY": "some-key",
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **channel,
    }
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=plain | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == ("['alerts', 'channels']" if channel else "[]")


def test_a_killed_run_is_told_by_the_next_look(main: Main, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(database) as conn:
        add_instance(conn)
        add_run(conn, "sites", datetime.now(UTC), run_status="running", host="elsewhere", process_id=1)
    with web_sink() as sink:
        monkeypatch.setenv("ALERT_SLACK_WEBHOOK", f"{sink.url}/hook")
        assert main("alerts", "check")[2].endswith("1 new, 0 over, sent.\n")
        assert "sites failed: Killed (run 1)" in sink.got[0][2]


def test_retry_runs_what_was_skipped_by_a_failure_and_leaves_what_is_off(
    main: Main, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(database) as conn:
        add_instance(conn)
        for resource, status, kind in (
            ("sites", "failed", "ServerTrouble"),
            ("rooms", "failed", "EndpointNotOffered"),
            ("staff", "skipped", "DependencyFailed"),
            ("elements", "skipped", "Interrupted"),
            ("invoices", "skipped", "BudgetSpent"),
            ("monitors", "success", None),
        ):
            add_run(conn, resource, datetime.now(UTC), run_status=status, error_type=kind)
        conn.execute("update dw_etl_jobs set is_active = false where id = 33")
    named: list[str] = []

    def note(_settings: object, chosen: list[Endpoint], *_: object, **__: object) -> int:
        named.extend(row.resource for row in chosen)
        return 0

    monkeypatch.setattr("clinical_conductor.execution.run_and_report", note)
    assert main("retry", "--failed")[0] == 0
    assert sorted(named) == ["elements", "sites", "staff"]


def test_serve_answers_until_it_is_asked_to_end(main: Main, database: str, tmp_path: Path) -> None:
    metrics_port = str(free_port())
    token = "0123456789abcdef"
    environment = os.environ | {"METRICS_PORT": metrics_port, "TRIALSYNC_TOKEN": token, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", "from clinical_conductor.cli import main; raise SystemExit(main())"]
    process = subprocess.Popen(
        [*command, "serve", "--port", "0", "--schedule"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        assert process.stderr is not None
        address = next(line.split()[-1] for line in process.stderr if line.startswith("Dashboard: "))
        headers = {"Authorization": f"Bearer {token}"}
        assert requests.get(address, timeout=10).status_code == 401
        assert requests.get(f"{address}ready", timeout=10).json()["ready"] is True
        assert "TrialSync" in requests.get(address, headers=headers, timeout=10).text
        metrics = requests.get(f"http://127.0.0.1:{metrics_port}/metrics", headers=headers, timeout=10)
        assert "trialsync_ledger_up 1.0" in metrics.text
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 0  # killed by the signal, it could not have ended its jobs
        assert token not in rest
        assert "Traceback" not in rest
    finally:
        process.kill()
        process.wait()


def test_serve_asks_the_run_it_began_to_end(main: Main, database: str, simulator: Simulator, tmp_path: Path) -> None:
    assert main("schedule", "--resource", "sites", "--cron", "* * * * *")[0] == 0
    assert main("schedule", "--resource", "studies", "--cron", "")[0] == 0
    with connect(database, autocommit=True) as conn:
        conn.execute(
            "insert into dw_etl_runs (job_id, source_instance_id, run_status, started_at, completed_at)"
            " select id, dw_default_instance(), 'success', now() - interval '1 hour', now() - interval '1 hour'"
            " from dw_etl_jobs where resource = 'sites'"
        )
        simulator.fault("slow", resource="sites", seconds=1, pieces=100)
        environment = os.environ | {
            "CC_API_BASE_URL": simulator.base_url,
            "CC_API_KEY": simulator.api_key,
            "ENABLE_METRICS": "false",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        command = [sys.executable, "-c", "from clinical_conductor.cli import main; raise SystemExit(main())"]
        with subprocess.Popen(
            [*command, "serve", "--port", "0", "--schedule"], env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL
        ) as process:
            latest = "select run_status, error_type from dw_etl_runs where heartbeat_at is not null order by id desc"
            until = time.monotonic() + 60
            while conn.execute(latest).fetchone() != ("running", None) and time.monotonic() < until:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(45) == 0
        assert conn.execute(latest).fetchone() == ("failed", "Interrupted")

"""A night in which everything goes wrong at once, as the person on call meets it.

One endpoint is down and a child of it waits, one parent of a fan-out answers 500, one endpoint is too slow for its
timeout, PostgreSQL restarts in the middle, and the disk of LOG_FILE is full. Then: what the terminal, the ledger, the
alert and the dashboard say, the one command that mends it, and what they say after it.
"""

from __future__ import annotations

import email
import json
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from email import policy
from pathlib import Path
from typing import Any

import pytest
import requests

from clinical_conductor.embedded import EmbeddedServer
from clinical_conductor.remedies import REMEDIES
from clinical_conductor.server import create_app
from clinical_conductor.settings import Settings
from clinical_conductor.simulator import Simulator
from clinical_conductor.simulator.api import Request
from tests.e2e.conftest import CommandLine
from tests.fixtures.pipeline import Pipeline
from tests.fixtures.postgres import FORGETFUL, VERSION
from tests.operations.sinks import MailSink, WebSink, mail_sink, web_sink
from tests.operations.test_server import running

JOBS = "studies,study_arms,visits,visit_elements_by_study,subject_statuses,patient_visits"

# PostgreSQL restarts while patient_visits is read; what has to fail for a reason of its own begins after that.
JOBS_YAML = """
jobs:
  subject_statuses: {timeout_seconds: 3, depends_on: [patient_visits]}
  visits: {depends_on: [patient_visits]}
  study_arms: {depends_on: [patient_visits]}
"""


@pytest.fixture
def postgres() -> Iterator[EmbeddedServer]:
    """A PostgreSQL of this test alone, since it is restarted."""
    home = Path(tempfile.mkdtemp(prefix="trialsync-night-"))
    home.chmod(0o711)  # started by root, the server runs as another user
    server = EmbeddedServer(home / "postgres", VERSION, FORGETFUL)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(home)


@pytest.fixture
def mail() -> Iterator[MailSink]:
    with mail_sink() as sink:
        yield sink


@pytest.fixture
def web() -> Iterator[WebSink]:
    with web_sink() as sink:
        yield sink


def spoil(simulator: Simulator, postgres: EmbeddedServer) -> threading.Event:
    """Everything that goes wrong upstream and in the database; the event says that PostgreSQL was restarted."""
    first = next(json.loads(record)["id"] for _, record in simulator.truth("studies"))
    simulator.fault("error", resource="visits")
    simulator.fault("error", path=f"/studies/{first}/arms$")
    simulator.fault("latency", resource="subject_statuses", seconds=1.6)
    restarted = threading.Event()

    def restart(request: Request) -> None:
        second_page = request.path.endswith("/patient-visits/odata") and "filter" in request.query
        if second_page and not restarted.is_set():
            restarted.set()
            postgres.stop()
            postgres.start()

    simulator.on_request(restart)
    return restarted


def said(mail: MailSink) -> tuple[str, list[str]]:
    """Subject and lines of the only mail; it is taken out."""
    ((_, _, text),) = mail.mails
    mail.mails.clear()
    message = email.message_from_string(text, policy=policy.default)
    part = message.get_body(("plain",))
    assert part is not None
    return str(message["Subject"]), part.get_content().splitlines()


def hooks_and_pings(web: WebSink) -> tuple[list[str], list[str]]:
    """What came by Slack's webhook, and the paths that were pinged; they are taken out."""
    hooks = [json.loads(body)["text"] for _, path, body in web.got if path == "/hook"]
    pings = [path for _, path, _ in web.got if path != "/hook"]
    web.got.clear()
    return hooks, pings


def in_ledger(pipeline: Pipeline, job: dict[str, Any]) -> dict[str, Any]:
    """The ledger's row of a job of the results file, under the names of the file."""
    run = pipeline.ledger(job["resource"])
    names = ("read", "inserted", "updated", "unchanged", "rejected", "deleted", "duplicate")
    counts = {{"read": "records_read", "duplicate": "duplicates"}.get(n, n): run[f"records_{n}"] for n in names}
    told = {"run_id": "id", "status": "run_status", "error": "error_message", "error_type": "error_type"}
    return {**{name: run[column] for name, column in told.items()}, **counts}


def test_a_bad_night_is_seen_told_and_mended_with_one_command(
    etl: CommandLine, simulator: Simulator, postgres: EmbeddedServer, mail: MailSink, web: WebSink
) -> None:
    url = postgres.start()
    etl.settings = {
        "CC_API_BASE_URL": simulator.base_url,
        "CC_API_KEY": simulator.api_key,
        "CC_API_RATE_LIMIT": "0",
        "ETL_BATCH_SIZE": "5",
        "ETL_MAX_RETRIES": "4",
        "ETL_RETRY_DELAY_SECONDS": "0.25",
        "DATABASE_URL": url,
        "LOG_FILE": "/dev/full",
        "ALERT_EMAIL": "oncall@example.com",
        "ALERT_SMTP_URL": f"smtp://127.0.0.1:{mail.port}",
        "ALERT_SLACK_WEBHOOK": f"{web.url}/hook",
        "ALERT_PING_URL": f"{web.url}/ping",
    }
    (etl.cwd / "config").mkdir()
    (etl.cwd / "config" / "jobs.yaml").write_text(JOBS_YAML, encoding="utf-8")
    pipeline = Pipeline(url, simulator, etl.cwd / ".trialsync")
    restarted = spoil(simulator, postgres)

    night = etl("run", "--resources", JOBS, "--results", "night.json")
    assert night.returncode == 1, night.stderr
    assert restarted.is_set()

    # The ledger, and the file that says the same.
    jobs = {job["resource"]: job for job in json.loads((etl.cwd / "night.json").read_text())["jobs"]}
    assert {name: (job["status"], job["error_type"]) for name, job in jobs.items()} == {
        "studies": ("success", None),
        "patient_visits": ("success", None),
        "study_arms": ("failed", "ParentFailed"),
        "visits": ("failed", "ServerTrouble"),
        "visit_elements_by_study": ("skipped", "DependencyFailed"),
        "subject_statuses": ("failed", "JobTimedOut"),
    }
    for job in jobs.values():
        assert in_ledger(pipeline, job).items() <= job.items()
    assert pipeline.differences("studies", "patient_visits") == {}
    assert pipeline.unsound() == []
    runs = {name: job["run_id"] for name, job in jobs.items()}

    # The terminal: each trouble once, the command last; the full disk of the log once.
    errors = [line for line in night.stdout.splitlines() if line.startswith(("failed  ", "skipped  ", "mend  "))]
    assert [" ".join(line.split()[:2]) for line in errors] == [
        *("failed visits", "failed subject_statuses", "failed study_arms", "skipped visit_elements_by_study"),
        "mend trialsync-etl",
    ]
    assert errors[-1] == "mend    trialsync-etl retry --failed"
    assert night.stderr.count("LOG_FILE /dev/full cannot be written (No space left on device)") == 1
    assert re.search(r"57P01|connection to PostgreSQL was lost", night.stderr)
    assert "Told by e-mail and Slack: 3 new, 0 over." in night.stderr
    assert etl("status").stdout.splitlines()[-1] == errors[-1]

    # The alert, whole: names, kinds, meanings and commands, and nothing else.
    expected = f"""visits failed: ServerTrouble (run {runs["visits"]})
    The API had trouble of its own. Nothing is lost; run it again.
    trialsync-etl retry --run-id {runs["visits"]}

subject_statuses failed: JobTimedOut (run {runs["subject_statuses"]})
    {REMEDIES["JobTimedOut"].meaning}
    trialsync-etl retry --run-id {runs["subject_statuses"]}

study_arms failed: ParentFailed (run {runs["study_arms"]})
    Some parents could not be asked. They stay owed; this asks for them only.
    trialsync-etl retry --run-id {runs["study_arms"]}

All of it at once:
    trialsync-etl retry --failed

The last 24 hours: 3 failed, 1 skipped of 74 jobs."""
    subject = "TrialSync: 3 troubles: visits, subject_statuses, study_arms"
    assert said(mail) == (subject, expected.splitlines())
    assert hooks_and_pings(web) == ([f"*{subject}*\n{expected}"], ["/ping/fail"])

    # The dashboard, as a file and served.
    assert etl("dashboard", "--html", "night.html").returncode == 0
    page = (etl.cwd / "night.html").read_text(encoding="utf-8")
    with running(create_app(Settings(database_url=url))) as address:

        def get(path: str) -> requests.Response:
            return requests.get(f"{address}{path}", timeout=10)

        served = get("/").text
        for text in (page, served):
            head, _, needs = text.partition('id="needs"')
            needs = needs.partition('id="jobs"')[0]
            assert "<h1>3 failed, 1 skipped of 74 jobs</h1>" in head
            assert "<p>visits, subject_statuses, study_arms</p>" in head
            assert re.findall(r'<code tabindex="0">(.*?)</code>', head) == ["trialsync-etl retry --failed"]
            assert re.findall(r"<h3>(\w+) <span[^>]*>(.*?)</span>", needs) == [("API", "3 jobs")]
            for name in ("visits", "subject_statuses", "study_arms"):
                assert f'<code tabindex="0">trialsync-etl retry --run-id {runs[name]}</code>' in needs
            assert "its timeout of 3 s is over" in needs
            assert "1 of 6 parents failed: 1 × ServerTrouble" in needs
        detail = get(f"/runs/{runs['visits']}").text
        assert "the API answered 500" in detail
        assert f"trialsync-etl retry --run-id {runs['visits']}" in detail
        assert "visits, which it needs, failed" in get(f"/runs/{runs['visit_elements_by_study']}").text
        mended_with = {job["resource"]: job["mend_with"] for job in get("/api/jobs").json()}
        assert mended_with["study_arms"] == f"trialsync-etl retry --run-id {runs['study_arms']}"

    # In the morning the API is well again: one command.
    simulator.faults.clear(simulator.api)
    morning = etl("retry", "--failed", "--results", "morning.json")
    assert morning.returncode == 0, morning.stdout + morning.stderr
    jobs = {job["resource"]: job for job in json.loads((etl.cwd / "morning.json").read_text())["jobs"]}
    assert {name: job["status"] for name, job in jobs.items()} == dict.fromkeys(
        ("visits", "visit_elements_by_study", "subject_statuses", "study_arms"), "success"
    )
    assert pipeline.differences(*JOBS.split(",")) == {}
    assert pipeline.unsound() == []
    assert pipeline.left_over() == []
    subject, lines = said(mail)
    assert subject == "TrialSync: 3 troubles are over"
    assert lines[0] == "Over:"
    assert lines[-1].startswith("The last 24 hours: All 6 jobs ran; ")
    hooks, pings = hooks_and_pings(web)
    assert hooks == ["*" + "\n".join([f"{subject}*", *lines])]
    assert pings == ["/ping"]
    assert etl("dashboard", "--html", "morning.html").returncode == 0
    page = (etl.cwd / "morning.html").read_text(encoding="utf-8")
    assert "night good" in page
    assert "Nothing. Every active job is fine." in page
    assert "retry" not in page.partition('id="jobs"')[0]


def test_a_full_disk_of_the_database_is_told_though_the_ledger_cannot_note_it(
    etl: CommandLine, simulator: Simulator, empty_database: str, web: WebSink
) -> None:
    etl.settings = {
        "CC_API_BASE_URL": simulator.base_url,
        "CC_API_KEY": simulator.api_key,
        "CC_API_RATE_LIMIT": "0",
        "DATABASE_URL": empty_database,
        "ALERT_SLACK_WEBHOOK": f"{web.url}/hook",
        "ALERT_PING_URL": f"{web.url}/ping",
    }
    pipeline = Pipeline(empty_database, simulator, etl.cwd / ".trialsync")
    assert etl("run", "--resources", "sites").returncode == 0
    assert hooks_and_pings(web) == ([], ["/ping"])
    # What the server answers when a table cannot grow; the small updates of the ledger still find room.
    with pipeline.database() as conn:
        conn.execute(
            """
            create function no_room() returns trigger language plpgsql as
            $$ begin raise 'could not extend file "base/1/2": No space left on device' using errcode = '53100'; end $$;
            create trigger no_room before insert on dim_rooms_staging for each row execute function no_room();
            create trigger no_room before insert on dw_alerts for each row execute function no_room();
            """
        )
    night = etl("run", "--resources", "sites,rooms", "--no-transform")
    assert night.returncode == 1
    assert "failed  rooms (33): PostgreSQL 53100: could not extend file" in night.stdout
    assert "Free space on the database's disk, then run again." in night.stdout
    run = pipeline.ledger("rooms")
    assert (run["run_status"], run["error_type"], pipeline.count("rooms")) == ("failed", "DatabaseFull", 0)
    (text,), pings = hooks_and_pings(web)
    assert pings == ["/ping/fail"]
    assert text.splitlines() == [
        "*TrialSync: the disk of the database is full*",
        "the disk of the database is full",
        "    What was committed is safe. Mend that first; the doctor tells more.",
        "    trialsync-etl doctor",
        "",
        f"rooms failed: DatabaseFull (run {run['id']})",
        f"    {REMEDIES['DatabaseFull'].meaning}",
        f"    trialsync-etl retry --run-id {run['id']}",
        "",
        "The last 24 hours: 1 failed of 74 jobs.",
    ]
    assert etl("dashboard", "--html", "night.html").returncode == 0
    page = (etl.cwd / "night.html").read_text(encoding="utf-8")
    assert "<h1>1 failed of 74 jobs</h1>" in page
    assert '<h3>Database <span class="muted small">1 job</span></h3>' in page
    with pipeline.database() as conn:
        conn.execute("drop function no_room cascade")
    assert etl("retry", "--failed", "--no-transform").returncode == 0
    assert pipeline.differences("sites", "rooms") == {}
    (text,), pings = hooks_and_pings(web)
    assert text.startswith("*TrialSync: over: The database could not be used*")
    assert pings == ["/ping"]

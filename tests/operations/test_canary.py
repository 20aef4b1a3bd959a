"""Markers in every field of every record, in the key and in error bodies come out nowhere but in the data itself.

An API of this test's own serves nothing but markers, and echoes the request's headers in every error. The command line
runs against it as a person would run it, at LOG_LEVEL=DEBUG; then everything it wrote is searched: standard output and
error, log file, results file, ledger, metrics, dashboard, API, alerts, and every file that is left.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from clinical_conductor.database import connect
from clinical_conductor.server import create_app
from clinical_conductor.settings import Settings
from tests.fixtures.postgres import PostgresServer
from tests.operations.sinks import web_sink
from tests.operations.test_server import running

MARK = "canary7f3e"
KEY = f"key-{MARK}-key"
CLI = [sys.executable, "-c", "from clinical_conductor.cli import main; raise SystemExit(main())"]

DATA_COLUMNS = {"data", "raw", "source_id", "parent_source_id", "parent_key", "content_hash", "parent_hash"}
"""Where records and their keys are meant to be."""


def record(key: str, **more: Any) -> dict[str, Any]:
    plain = {"name": f"{MARK} Jane", "note": {"text": f"{MARK} é"}, "list": [f"{MARK}"], f"field-{MARK}": f"{MARK}"}
    return {"id": f"{MARK}-{key}", **plain, **more}


LISTS = {
    "/api/v1/sites": [record("s1"), record("s2"), record("s1", name=f"{MARK} again")],
    "/api/v1/studies/odata": [record("st1"), record("st2"), record("st3")],
    "/api/v1/patients/odata": [record("p1"), record("p2")],
}
SPOILT = [
    json.dumps(record("p3", bad="x\x00y")),
    json.dumps(record("p4")).replace(f'"{MARK} Jane"', '"\\ud800 ' + MARK + '"'),
    json.dumps(record("p5")).replace("[", "[1e400000, "),
    json.dumps({"name": f"{MARK} without an id"}),
    json.dumps(record("p6" * 200)),
]


class Handler(BaseHTTPRequestHandler):
    """Serves markers; every error quotes the request."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.removeprefix("/CCSWEB")
        if path == "/api/v1/patients/odata":
            items = [json.dumps(item) for item in LISTS[path]] + SPOILT
            self.answer(200, f'{{"value": [{", ".join(items)}]}}')
        elif path in LISTS:
            self.answer(200, json.dumps({"Items": LISTS[path], "Count": len(LISTS[path]), "NextPageLink": None}))
        elif path.endswith("st1/arms"):
            self.answer(200, json.dumps([record("a1")]))
        elif path.endswith("st2/arms"):
            self.error(500)
        elif path == "/api/v1/appointments/odata":
            self.answer(200, f"<html>{MARK} {self.headers}</html>", "text/html")
        elif path == "/api/v1/staff/odata":
            self.answer(200, json.dumps({"unheard": {"of": MARK}}))
        elif path == "/api/v1/rooms/odata":
            self.error(401)
        elif path == "/api/v1/invoices/odata":
            self.error(400)
        elif path == "/api/v1/sponsors/odata":
            self.error(429, {"Retry-After": "0", "X-Note": MARK})
        elif path == "/api/v1/providers/odata":
            self.error(501)
        else:
            self.error(404)

    def error(self, status: int, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"message": f"{MARK} refused", "request": dict(self.headers.items())})
        self.answer(status, body, headers=headers)

    def answer(
        self, status: int, body: str, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/CCSWEB"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


JOBS = "sites,studies,patients,study_arms,appointments,staff,rooms,invoices,sponsors,providers,schedules"


@pytest.fixture(scope="module")
def output(
    postgres_server: PostgresServer, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Everything that came out of a night against this API, by where it came out."""
    home = tmp_path_factory.mktemp("canary")
    (home / "tmp").mkdir()
    database = postgres_server.create(migrated_template)
    url = postgres_server.database_url(database)
    with upstream() as base, web_sink() as sink:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "CC_API_BASE_URL": base,
            "CC_API_KEY": KEY,
            "CC_API_RATE_LIMIT": "0",
            "ETL_MAX_RETRIES": "1",
            "ETL_RETRY_DELAY_SECONDS": "0.01",
            "DATABASE_URL": url,
            "LOG_LEVEL": "DEBUG",
            "LOG_FILE": str(home / "trialsync.log"),
            "TRIALSYNC_HOME": str(home / "work"),
            "ALERT_SLACK_WEBHOOK": f"{sink.url}/hook",
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }
        found: dict[str, str] = {}

        def command(*arguments: str) -> None:
            done = subprocess.run(
                [*CLI, *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=300
            )
            found[f"stdout of {arguments[0]}"] = done.stdout
            found[f"stderr of {arguments[0]}"] = done.stderr

        command("run", "--resources", JOBS, "--results", str(home / "results.json"))
        command("status")
        command("history", "--limit", "50")
        command("metrics", "--textfile", str(home / "trialsync.prom"))
        command("dashboard", "--html", str(home / "dashboard.html"))
        command("alerts", "check")
        found["alerts"] = "\n".join(body for _, _, body in sink.got)
        for path in home.rglob("*"):
            if path.is_file():
                found[f"file {path.relative_to(home)}"] = path.read_bytes().decode("utf-8", "replace")
        with running(create_app(Settings(database_url=url))) as address:
            pages = ["/", "/api/jobs", "/api/runs", "/api/transformations"]
            pages += [
                f"/{kind}/{run['id']}"
                for run in requests.get(f"{address}/api/runs", timeout=10).json()
                for kind in ("runs", "api/runs")
            ]
            for page in pages:
                found[f"page {page}"] = requests.get(address + page, timeout=10).text
        found |= ledger(url)
        yield found
    postgres_server.drop(database)


def ledger(url: str) -> dict[str, str]:
    """Every column of every control table, but those that are meant for records and keys."""
    found = {}
    with connect(url) as conn:
        columns = conn.execute(
            """
            select c.table_name, c.column_name from information_schema.columns as c
            inner join information_schema.tables as t using (table_schema, table_name)
            where c.table_schema = 'public' and t.table_type = 'BASE TABLE'
                and c.table_name ~ '^dw_' and c.table_name !~ '^dw_(dim|fact)_'
            """
        ).fetchall()
        for table, column in columns:
            if column not in DATA_COLUMNS:
                rows = conn.execute(f"select {column}::text from {table} where {column} is not null").fetchall()
                found[f"{table}.{column}"] = "\n".join(row[0] for row in rows)
    # The path of a parent's own request, in the row that this very key names.
    found["dw_etl_parents.reason"] = re.sub(f"/{MARK}-st[0-9]/", "/", found["dw_etl_parents.reason"])
    return found


def test_night_went_as_planned(output: dict[str, str]) -> None:
    """The markers were really served, stored and refused; otherwise the next test would prove nothing."""
    results = json.loads(output["file results.json"])
    jobs = {job["resource"]: job for job in (results["jobs"] if isinstance(results, dict) else results)}
    assert set(JOBS.split(",")) <= set(jobs)
    assert jobs["sites"]["status"] == "success"
    assert jobs["patients"]["rejected"] >= 4
    assert jobs["study_arms"]["parents_failed"] >= 1
    failed = {name for name, job in jobs.items() if job["status"] == "failed"}
    assert {"appointments", "staff", "rooms", "invoices", "sponsors", "providers", "schedules"} <= failed
    kinds = set(output["dw_etl_runs.error_type"].split())
    assert {
        "UnreadableAnswer",
        "UnknownEnvelope",
        "Unauthorised",
        "BadRequest",
        "RateLimited",
        "EndpointNotFound",
    } <= kinds
    assert "rooms failed: Unauthorised" in output["alerts"]
    assert "trialsync_ledger_up 1.0" in output["file trialsync.prom"]
    assert '"level": "debug"' in output["file trialsync.log"] or '"level": "info"' in output["file trialsync.log"]


def test_no_marker_comes_out_anywhere(output: dict[str, str]) -> None:
    leaks = {}
    for place, text in output.items():
        at = text.lower().find(MARK)
        if at >= 0:
            leaks[place] = text[max(at - 80, 0) : at + 80]
    assert leaks == {}


def test_nothing_of_the_work_is_left(output: dict[str, str]) -> None:
    left = [place for place in output if place.startswith(("file work/", "file tmp/"))]
    assert [place for place in left if not place.endswith((".lock", "typed-refs.txt"))] == []


def test_server_log_holds_no_marker(output: dict[str, str], postgres_server: PostgresServer) -> None:
    logs = [path for path in postgres_server.home.rglob("*") if path.is_file() and "log" in path.name.lower()]
    texts = [path for path in logs if path.suffix in (".log", ".txt", "") and path.stat().st_size < 50_000_000]
    for path in texts:
        if "pg_wal" not in path.parts and "base" not in path.parts:
            assert MARK.encode() not in path.read_bytes(), path.name

"""`serve` over HTTP: what it shows, to whom, and what it says when the database is away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

from clinical_conductor.database import connect
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.server import Access, _in_background, _server, create_app, create_metrics_app, readiness, serve
from clinical_conductor.settings import Settings
from tests.fixtures.processes import free_port
from tests.operations.conftest import Nights

TOKEN = "0123456789abcdef0123456789abcdef"
AWAY = Settings(database_url="postgresql://nobody@127.0.0.1:1/none")


@contextmanager
def running(app: Any) -> Iterator[str]:
    server, thread = _in_background(_server(app, "127.0.0.1", 0), 0)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def shared(kept: Nights) -> Settings:
    return Settings(database_url=kept.url, jobs_file=Path("absent.yaml"))


@pytest.fixture(scope="module")
def url(shared: Settings) -> Iterator[str]:
    with running(create_app(shared, version="1.2.3")) as address:
        yield address


def test_front_page_and_run_page(url: str, kept: Nights) -> None:
    page = requests.get(url, timeout=10)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    run = kept.runs["invoices"]
    assert f'href="/runs/{run}"' in page.text
    detail = requests.get(f"{url}/runs/{run}", timeout=10)
    assert "the API answered 503 four times" in detail.text
    assert requests.get(f"{url}/runs/999999", timeout=10).status_code == 404
    assert requests.get(f"{url}/runs/x", timeout=10).status_code == 422


def test_api_of_jobs_and_runs(url: str, kept: Nights) -> None:
    jobs = requests.get(f"{url}/api/jobs", params={"active": True}, timeout=10).json()
    assert len(jobs) == len(kept.snapshot.active)
    assert all(job["active"] for job in jobs)
    invoices = next(job for job in jobs if job["resource"] == "invoices")
    assert invoices["last_run"]["id"] == kept.runs["invoices"]
    assert invoices["last_run"]["error_type"] == "ServerTrouble"
    runs = requests.get(f"{url}/api/runs", params={"status": "failed", "limit": 2}, timeout=10).json()
    assert [run["status"] for run in runs] == ["failed", "failed"]
    older = requests.get(f"{url}/api/runs", params={"job_id": 168, "before": kept.runs["invoices"]}, timeout=10).json()
    assert len(older) == 3
    one = requests.get(f"{url}/api/runs/{kept.runs['patients']}", timeout=10).json()
    assert one["rejections"] == [{"reason": "holds \\u0000, which PostgreSQL cannot store", "records": 3}]
    assert set(one["stages"]) == {"read", "ask", "land", "merge"}
    assert requests.get(f"{url}/api/runs/999999", timeout=10).status_code == 404
    for bad in ({"limit": 501}, {"limit": 0}, {"status": "x"}, {"job_id": 2**40}):
        assert requests.get(f"{url}/api/runs", params=bad, timeout=10).status_code == 422
    assert set(requests.get(f"{url}/api/transformations", timeout=10).json()) == {"transformations", "checks"}


def test_api_is_described_and_read_only(url: str) -> None:
    paths = requests.get(f"{url}/openapi.json", timeout=10).json()["paths"]
    assert set(paths) == {"/health", "/ready", "/api/jobs", "/api/runs", "/api/runs/{run_id}", "/api/transformations"}
    for path, methods in paths.items():
        assert set(methods) == {"get"}, path
        assert methods["get"]["summary"], path
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert requests.request(method, f"{url}/api/jobs", timeout=10).status_code == 405
    reference = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    assert all(f"`{path}`" in reference for path in paths)


def test_pages_carry_headers_that_forbid_scripts_and_framing(url: str) -> None:
    for path in ("/", "/api/jobs", "/health"):
        headers = requests.get(url + path, timeout=10).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_head_is_answered_where_get_is(url: str) -> None:
    for path in ("/", "/health", "/ready", "/api/jobs"):
        answer = requests.head(url + path, timeout=10)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert requests.head(f"{url}/api/runs/999999", timeout=10).status_code == 404


def test_without_a_token_only_this_machine_by_its_own_name(url: str) -> None:
    answer = requests.get(url, headers={"Host": "evil.example.com"}, timeout=10)
    assert answer.status_code == 403
    assert "TRIALSYNC_TOKEN" in answer.json()["detail"]
    assert requests.get(f"{url}/health", headers={"Host": "evil.example.com"}, timeout=10).status_code == 200
    assert requests.get(url, headers={"Host": "localhost:8080"}, timeout=10).status_code == 200


def test_with_a_token_nobody_without_it(shared: Settings) -> None:
    with running(create_app(shared, Access("127.0.0.1", TOKEN))) as url:
        for path in ("/", "/api/jobs", "/api/runs/1", "/openapi.json", "/runs/1", "/nothing"):
            answer = requests.get(url + path, timeout=10)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Basic")
        for headers in (
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": "Basic !"},
            {"Authorization": "Bearer ä".encode("latin-1")},
        ):
            assert requests.get(url, headers=headers, timeout=10).status_code == 401  # type: ignore[arg-type]
        assert requests.get(url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10).status_code == 200
        assert requests.get(url, auth=("anybody", TOKEN), timeout=10).status_code == 200
        assert requests.get(f"{url}/ready", timeout=10).status_code == 200


def test_other_addresses_need_a_token_of_some_length() -> None:
    with pytest.raises(ConfigurationError, match="TRIALSYNC_TOKEN"):
        Access("0.0.0.0")
    with pytest.raises(ConfigurationError, match="too short"):
        Access("0.0.0.0", "short")
    assert Access("0.0.0.0", TOKEN).allows({"authorization": f"bearer {TOKEN}"})


def test_ready_tells_database_and_migrations_apart(shared: Settings, empty_database: str) -> None:
    assert readiness(shared) == {"ready": True, "database": True, "migrations": True}
    empty = readiness(Settings(database_url=empty_database))
    assert (empty["ready"], empty["database"], empty["migrations"]) == (False, True, False)
    assert readiness(AWAY) == {"ready": False, "database": False, "migrations": False, "error": "DatabaseTrouble"}


def test_database_that_is_away_is_said_without_its_address() -> None:
    with running(create_app(AWAY)) as url:
        assert requests.get(f"{url}/health", timeout=10).json() == {"status": "ok"}
        assert requests.get(f"{url}/ready", timeout=10).status_code == 503
        for path in ("/", "/api/jobs", "/api/runs", "/runs/1"):
            answer = requests.get(url + path, timeout=30)
            assert answer.status_code == 503
            assert answer.headers["content-type"].startswith("application/json" if "api" in path else "text/html")
            assert "nobody" not in answer.text
            assert "127.0.0.1" not in answer.text


def test_metrics_have_a_port_of_their_own(shared: Settings) -> None:
    with running(create_metrics_app(shared, version="1.2.3")) as url:
        answer = requests.get(f"{url}/metrics", timeout=10)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "trialsync_ledger_up 1.0" in answer.text
        assert requests.get(url, timeout=10).status_code == 404


def test_serve_offers_all_of_it_and_ends_when_asked(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[uvicorn.Server] = []
    monkeypatch.setattr("clinical_conductor.server._server", lambda *a: servers.append(_server(*a)) or servers[-1])
    settings = Settings(database_url=database, metrics_port=free_port(), jobs_file=tmp_path / "jobs.yaml")
    (tmp_path / "jobs.yaml").write_text("timezone: Europe/Zurich\njobs: {sites: {schedule: '0 2 * * *'}}")
    addresses: list[str] = []
    ready = threading.Event()

    def started(url: str) -> None:
        addresses.append(url)
        ready.set()

    loop = threading.Thread(
        target=serve, args=(settings, Access()), kwargs={"port": 0, "schedule": True, "started": started}
    )
    loop.start()
    try:
        assert ready.wait(30)
        jobs = requests.get(f"{addresses[0]}api/jobs", timeout=10).json()
        sites = next(job for job in jobs if job["resource"] == "sites")
        assert sites["schedule"] == "0 2 * * *"
        assert requests.get(f"http://127.0.0.1:{settings.metrics_port}/metrics", timeout=10).status_code == 200
        with connect(database) as conn:
            names = conn.execute(
                "select application_name from pg_stat_activity where datname = current_database()"
            ).fetchall()
        assert ("trialsync-schedule",) in names
    finally:
        for server in servers:
            server.should_exit = True
        loop.join(30)
    assert not loop.is_alive()


def test_port_that_is_taken_is_named(shared: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match=f"METRICS_PORT {port}"):
            serve(Settings(database_url=str(shared.database), metrics_port=port), Access(), port=0)
        with pytest.raises(ConfigurationError, match=f"--port {port}"):
            serve(Settings(database_url=str(shared.database), enable_metrics=False), Access(), port=port)

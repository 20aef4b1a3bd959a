"""`serve`: the dashboard, the API, health and metrics over HTTP, and, if wanted, the schedules. Reads only.

It listens on 127.0.0.1 unless told otherwise; anything else needs TRIALSYNC_TOKEN, given as `Authorization: Bearer …`
or, by a browser, as the password of any user name. /health and /ready say nothing about the data and need no token.
Metrics have a port of their own (METRICS_PORT), with the same rule.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from clinical_conductor import dashboard, metrics
from clinical_conductor.alerts import check_alerts
from clinical_conductor.database import connect, database_url
from clinical_conductor.errors import (
    ConfigurationError,
    DatabaseRefused,
    DatabaseTrouble,
    MigrationError,
    TrialSyncError,
)
from clinical_conductor.ledger import Job, Run
from clinical_conductor.logs import get_logger
from clinical_conductor.migrations import pending
from clinical_conductor.monitoring import read_ledger, read_run, read_runs, rejection_reasons, zone_of
from clinical_conductor.schedule import Scheduler
from clinical_conductor.settings import LOOPBACK, Settings

OPEN_PATHS = ("/health", "/ready")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
DESCRIPTION = (
    "What the run ledger knows, read only. Times are UTC. "
    "No record and no key of a patient or a study is in any answer."
)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask."""

    host: str = "127.0.0.1"
    token: str = ""

    def __post_init__(self) -> None:
        """Refuse to serve others than this machine without a token.

        Raises:
            ConfigurationError: the address is not loopback and there is no token, or it is too short.
        """
        if self.host not in LOOPBACK and not self.token:
            raise ConfigurationError(
                f"--host {self.host} lets others read the ledger: set TRIALSYNC_TOKEN, or leave the host at 127.0.0.1."
            )
        if self.token and len(self.token) < 16:
            raise ConfigurationError(
                "TRIALSYNC_TOKEN is too short: use 16 characters or more, such as openssl rand -hex 16."
            )

    def allows(self, headers: Mapping[str, str]) -> bool:
        """Whether a request's headers give the token, or come from this machine when there is none."""
        if not self.token:
            # A page of the web must not read us through a name of its own that points at 127.0.0.1.
            name = headers.get("host", "").rsplit(":", 1)[0].strip("[]")
            return name in LOOPBACK
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.encode(), self.token.encode())


def create_app(settings: Settings, access: Access | None = None, *, version: str = "0") -> FastAPI:
    """The application of the dashboard and the API.

    Args:
        settings: Which database.
        access: Who may ask; by default this machine.
        version: Shown in the pages and in the OpenAPI document.
    """
    # No /docs: its page loads scripts from elsewhere. The description is at /openapi.json and in docs/api.md.
    app = FastAPI(title="TrialSync", version=version, description=DESCRIPTION, docs_url=None, redoc_url=None)
    _guard(app, access or Access())

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def index() -> str:
        return dashboard.page(read_ledger(settings), version=version)

    @app.get("/runs/{run_id}", response_class=HTMLResponse, include_in_schema=False)
    def run(run_id: _RunId) -> str:
        with connect(database_url(settings), name="trialsync-serve") as conn:
            found = read_run(conn, run_id)
            if found is None:
                raise HTTPException(404, f"There is no run {run_id}.")
            earlier = read_runs(conn, job_id=found.job_id, limit=20)
            reasons = rejection_reasons(conn, found)
        return dashboard.run_page(found, earlier, reasons, datetime.now(UTC), zone_of(settings), version=version)

    @app.get("/health", tags=["health"], summary="The process is alive")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", tags=["health"], summary="The database answers and its schema is current", responses=_UNREADY)
    def ready() -> Response:
        state = readiness(settings)
        return JSONResponse(state, status_code=200 if state["ready"] else 503)

    @app.get("/api/jobs", tags=["ledger"], summary="Every job with its health, latest run and schedule")
    def jobs(active: bool | None = None) -> list[dict[str, Any]]:
        return [job_json(job) for job in read_ledger(settings).jobs if active is None or job.active == active]

    @app.get("/api/runs", tags=["ledger"], summary="Runs, newest first")
    def runs(
        job_id: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Only of this job")] = None,
        status: Annotated[Literal["running", "success", "failed", "skipped"] | None, Query()] = None,
        before: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Id of the last run already seen")] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> list[dict[str, Any]]:
        with connect(database_url(settings), name="trialsync-serve") as conn:
            found = read_runs(conn, job_id=job_id, status=status, before=before, limit=limit)
        return [run_json(run) for run in found]

    @app.get(
        "/api/runs/{run_id}", tags=["ledger"], summary="One run, with why records were set aside", responses=_NO_RUN
    )
    def one_run(run_id: _RunId) -> dict[str, Any]:
        with connect(database_url(settings), name="trialsync-serve") as conn:
            found = read_run(conn, run_id)
            if found is None:
                raise HTTPException(404, f"There is no run {run_id}.")
            reasons = rejection_reasons(conn, found)
        return run_json(found) | {"rejections": [{"reason": text, "records": count} for text, count in reasons]}

    @app.get(
        "/api/transformations", tags=["ledger"], summary="The latest run of every procedure, and the quality checks"
    )
    def transformations() -> dict[str, Any]:
        snapshot = read_ledger(settings)
        return {
            "transformations": [_fields(step) for step in snapshot.transformations],
            "checks": [_fields(check) for check in snapshot.checks],
        }

    return app


_RunId = Annotated[int, Path(ge=1, le=2**31 - 1)]
_NO_RUN: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such run"}}
_UNREADY: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready; the body says why"}}


def create_metrics_app(settings: Settings, access: Access | None = None, *, version: str = "0") -> FastAPI:
    """The application on METRICS_PORT: /metrics and nothing else."""
    app = FastAPI(title="TrialSync metrics", version=version, openapi_url=None)
    _guard(app, access or Access())

    @app.get("/metrics")
    def read() -> Response:
        return Response(metrics.render_metrics(settings, version=version), media_type=metrics.CONTENT_TYPE)

    return app


def readiness(settings: Settings) -> dict[str, Any]:
    """Whether the database answers and knows every migration; never why in words that quote an address."""
    state: dict[str, Any] = {"ready": False, "database": False, "migrations": False}
    try:
        with connect(database_url(settings), name="trialsync-ready") as conn:
            state["database"] = True
            state["migrations"] = not pending(conn)
    except (DatabaseTrouble, DatabaseRefused, MigrationError) as error:
        state["error"] = type(error).__name__
    state["ready"] = state["database"] and state["migrations"]
    return state


def serve(
    settings: Settings,
    access: Access,
    *,
    port: int = 8080,
    schedule: bool = False,
    version: str = "0",
    started: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        settings: Which database; ENABLE_METRICS and METRICS_PORT.
        access: Address and token.
        port: 0 takes a free one.
        schedule: Whether to run the jobs at their times, too, and to send alerts.
        version: Shown in the pages.
        started: Called with the dashboard's address once it answers.

    Raises:
        ConfigurationError: a port is taken.
    """
    main = _server(create_app(settings, access, version=version), access.host, port)
    beside: list[tuple[uvicorn.Server, threading.Thread]] = []
    if settings.enable_metrics:
        second = _server(create_metrics_app(settings, access, version=version), access.host, settings.metrics_port)
        beside.append(_in_background(second, settings.metrics_port))
    scheduler = Scheduler(settings, every_minute=lambda: check_alerts(settings)) if schedule else None
    try:
        if scheduler is not None:
            scheduler.start()
        if started is not None:
            threading.Thread(target=_announce, args=(main, started), daemon=True).start()
        # SystemExit is uvicorn's way to say that it could not start; `started` tells.
        with _outliving_signals(main), contextlib.suppress(SystemExit):
            main.run()
        if not main.started:
            raise ConfigurationError(f"--port {port} cannot be listened on at {access.host}; it is taken, perhaps.")
    finally:
        if scheduler is not None:
            scheduler.stop()
        for server, thread in beside:
            server.should_exit = True
            thread.join(10)


def _server(app: FastAPI, host: str, port: int) -> uvicorn.Server:
    """A server that says nothing: its access log would be the only log with addresses of readers."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )


@contextlib.contextmanager
def _outliving_signals(server: uvicorn.Server) -> Iterator[None]:
    """Stay alive when the server ends at SIGTERM or Ctrl-C, so that running jobs can be ended, too.

    Uvicorn sends itself the signal again once it has ended, which would kill the process there and then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_background(server: uvicorn.Server, port: int) -> tuple[uvicorn.Server, threading.Thread]:
    """A second server in a thread of its own.

    Raises:
        ConfigurationError: its port is taken.
    """

    def run() -> None:
        with contextlib.suppress(SystemExit):
            server.run()

    thread = threading.Thread(target=run, daemon=True, name="metrics")
    thread.start()
    while not server.started and thread.is_alive():
        thread.join(0.02)
    if not server.started:
        raise ConfigurationError(
            f"METRICS_PORT {port} cannot be listened on; it is taken, perhaps. Or ENABLE_METRICS=false."
        )
    return server, thread


def _announce(server: uvicorn.Server, started: Callable[[str], None]) -> None:
    """Call `started` with the address, once there is one."""
    while not server.started:
        if server.should_exit:
            return
        threading.Event().wait(0.02)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    started(f"http://{f'[{host}]' if ':' in host else host}:{port}/")


def _guard(app: FastAPI, access: Access) -> None:
    """The token, the headers, and errors that name a cause without quoting it."""

    @app.middleware("http")
    async def check(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path not in OPEN_PATHS and not access.allows(request.headers):
            if not access.token:
                why = (
                    "Without TRIALSYNC_TOKEN only this machine is answered, by the name localhost or 127.0.0.1: set it."
                )
                return JSONResponse({"detail": why}, 403, HEADERS)
            ask = {"WWW-Authenticate": 'Basic realm="TrialSync"'}
            return JSONResponse({"detail": "A token is needed."}, 401, ask | HEADERS)
        response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    app.add_middleware(_HeadAsGet)

    @app.exception_handler(TrialSyncError)
    async def trouble(request: Request, error: TrialSyncError) -> Response:
        log.warning("a page could not be made", error=error)
        if request.url.path == "/" or request.url.path.startswith("/runs/"):
            text = dashboard.trouble_page(type(error).__name__, datetime.now(UTC), UTC, version=app.version)
            return HTMLResponse(text, 503, HEADERS)
        return JSONResponse({"detail": f"The ledger cannot be read: {type(error).__name__}."}, 503, HEADERS)


class _HeadAsGet:
    """HEAD is answered wherever GET is, as load balancers ask; uvicorn leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)


def job_json(job: Job) -> dict[str, Any]:
    """A job as /api/jobs shows it."""
    return {
        "job_id": job.id,
        "resource": job.resource,
        "name": job.name,
        "category": job.category,
        "table": job.table,
        "instance": job.instance,
        "active": job.active,
        "inactive_reason": job.inactive_reason,
        "health": job.health,
        "schedule": job.schedule,
        "next_run": job.next_run,
        "missed_runs": job.missed,
        "last_success_at": job.last_success_at,
        "watermark": job.watermark,
        "quarantined": job.quarantined,
        "parents_owed": job.owed,
        "parents_failed": job.parents_failed,
        "parents_gone": job.parents_gone,
        "mend_with": job.remedy.command if job.remedy else None,
        "last_run": run_json(job.last) if job.last else None,
    }


def run_json(run: Run) -> dict[str, Any]:
    """A run as /api/runs shows it."""
    return _fields(run)


def _fields(item: Any) -> dict[str, Any]:
    """A dataclass of the ledger as JSON."""
    return {name: getattr(item, name) for name in item.__slots__}

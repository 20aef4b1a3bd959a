"""What is wrong with an instance and its database, and what to do about it: the doctor's findings.

What was found out by `probing`, `openapi` and `checkup` is judged here. Nothing in a report is a record, an id of one
or a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from clinical_conductor import __version__, checkup
from clinical_conductor.catalog import ENDPOINTS, Endpoint
from clinical_conductor.checkup import Checkup
from clinical_conductor.errors import EndpointNotOffered, TrialSyncError, Unauthorised
from clinical_conductor.instances import resolve_key
from clinical_conductor.jobs_config import load_jobs_config
from clinical_conductor.openapi import DOCUMENT_PATHS, Comparison, compare, find_document
from clinical_conductor.pacing import Limiter
from clinical_conductor.probing import Access, Pace, Probe, Witness, find_access, hurried, pace_of, probe_all
from clinical_conductor.selection import Switches, catalog_switches
from clinical_conductor.settings import Settings

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
"""From the worst."""
SKEW_SECONDS = 300.0
SLOW_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know, and what to do about it."""

    level: Level
    area: Literal["settings", "api", "database", "endpoint", "document"]
    text: str
    resources: tuple[str, ...] = ()


@dataclass
class Report:
    """Everything the doctor found out."""

    instance: str = "default"
    base_url: str = ""
    access: Access | None = None
    pace: Pace | None = None
    document: Comparison | None = None
    database: Checkup = field(default_factory=Checkup)
    probes: dict[str, Probe] = field(default_factory=dict)
    switches: Switches = field(default_factory=catalog_switches)
    """Which jobs are on."""
    findings: list[Finding] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)

    def add(
        self, level: Level, area: Literal["settings", "api", "database", "endpoint", "document"], text: str, *about: str
    ) -> None:
        """Note a finding."""
        self.findings.append(Finding(level, area, " ".join(text.split()), about))

    @property
    def severity(self) -> Level | Literal["ok"]:
        """The worst level there is; notes are ok."""
        found = {finding.level for finding in self.findings}
        return "error" if "error" in found else "warning" if "warning" in found else "ok"

    def as_json(self) -> dict[str, Any]:
        """The report as JSON types."""
        working = self.access if self.access is not None and self.access.error is None else None
        return {
            "version": __version__,
            "checked_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "severity": self.severity,
            "instance": self.instance,
            "api": {
                "base_url": self.base_url,
                "reachable": working is not None,
                "key_header": working.key_header if working else None,
                "pace": asdict(self.pace) if self.pace else None,
                "document": asdict(self.document) if self.document else None,
            },
            "database": self.database.as_json(),
            "endpoints": [
                {**probe.as_json(), "active": self.switches[probe.endpoint.job_id][0]} for probe in self.probes.values()
            ],
            "findings": [asdict(finding) for finding in sorted_findings(self.findings)],
            "fixed": self.fixed,
        }


def sorted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, otherwise in the order they were found."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def examine(
    settings: Settings,
    rows: Sequence[Endpoint],
    *,
    instance: str | None = None,
    fix: bool = False,
    on_progress: Callable[[str, dict[str, Any]], None] = lambda *_: None,
) -> Report:
    """Look at everything. What is wrong becomes a finding; nothing is raised for it.

    Args:
        settings: Where the API and the database are.
        rows: The endpoints to ask.
        instance: An instance by its name in dw_api_credentials.
        fix: Whether to write overrides for paths that answer elsewhere.
        on_progress: Is told of each endpoint as it is done.
    """
    report = Report(instance or "default", settings.api_base_url.rstrip("/"))
    try:
        load_jobs_config(settings.jobs_file)
    except TrialSyncError as error:
        report.add("error", "settings", str(error))
    with checkup.look_at_database(settings, instance, fix=fix) as side:
        report.database, report.switches = side.found, side.switches
        report.fixed += [f"{name}: applied" for name in side.found.migrations_applied]
        for level, text in side.findings:
            report.add(level, "database", text)
        own = side.instance
        if own is not None:
            report.instance, report.base_url = own.name, own.base_url.rstrip("/")
        if not report.base_url:
            report.add(
                "error", "api", "CC_API_BASE_URL is not set: it should look like https://ccs.example.com/CCSWEB."
            )
        elif instance is None or own is not None:
            try:
                key = resolve_key(own.api_key_ref) if own is not None else settings.api_key
                header = own.key_header if own is not None else settings.api_key_header
                _examine_api(report, settings, rows, key, header, side, on_progress)
            except TrialSyncError as error:
                report.add("error", "api", str(error))
        _judge_endpoints(report, side, fix=fix)
    return report


def _examine_api(
    report: Report,
    settings: Settings,
    rows: Sequence[Endpoint],
    key: str,
    header: str,
    side: checkup.DatabaseSide,
    on_progress: Callable[[str, dict[str, Any]], None],
) -> None:
    """Find the way in, then ask every endpoint."""
    hasty, limiter = hurried(settings), Limiter(settings.api_rate_limit)
    report.access = access = find_access(
        hasty, base_url=report.base_url, api_key=key, key_header=header, limiter=limiter
    )
    if access.error is not None:
        text = str(access.error)
        if isinstance(access.error, Unauthorised):
            text = (
                f"The API refuses the key, in {' and in '.join(access.tried)} alike. Was CC_API_KEY copied whole, and "
                "is it this instance's? If so, whoever runs the instance has to renew it or to give it rights."
            )
        report.add("error", "api", text)
        return
    if access.base_url != report.base_url:
        report.add("error", "api", f"The base URL lacks its path: set CC_API_BASE_URL={access.base_url}")
        report.base_url = access.base_url
    if access.key_header.lower() != header.lower():
        report.add(
            "error",
            "api",
            f"The instance takes the key in {access.key_header}, not in {header}: set "
            f"CC_API_KEY_HEADER={access.key_header}, or api_key_header of its row in dw_api_credentials.",
        )
    with closing(
        Witness(hasty, base_url=access.base_url, api_key=key, api_key_header=access.key_header, limiter=limiter)
    ) as client:
        off = frozenset(row.resource for row in rows if not side.switches[row.job_id][0])
        report.probes = probe_all(
            client,
            rows,
            {row.resource: [path] for row in rows if (path := side.paths.get(row.job_id))},
            off=off,
            on_probe=lambda probe: on_progress(probe.endpoint.resource, {"status": "success"}),
        )
        report.pace = pace_of(client)
        found = find_document(client)
    report.document = compare(*found, ENDPOINTS.values()) if found else None
    _judge_api(report, settings)


def _judge_api(report: Report, settings: Settings) -> None:
    """What clock, pace and document mean."""
    pace = report.pace
    if pace is not None and pace.clock_ahead is not None and abs(pace.clock_ahead) > SKEW_SECONDS:
        report.add(
            "warning",
            "api",
            f"The instance's clock is {skew(pace.clock_ahead)} this machine's. Watermarks are kept in its own clock, "
            "so nothing is lost; but times in the ledger and in the records do not compare.",
        )
    if pace is not None and pace.slow is not None and pace.slow > SLOW_SECONDS:
        report.add("note", "api", f"One request in twenty takes more than {pace.slow:.1f} s. Load at quieter hours.")
    if pace is not None and pace.throttled:
        report.add(
            "warning",
            "api",
            f"The API asked for a pause {pace.throttled} times at {settings.api_rate_limit:g} requests a second. "
            "Lower CC_API_RATE_LIMIT.",
        )
    document = report.document
    if document is None:
        report.add("note", "document", f"The instance shows no OpenAPI document at {', '.join(DOCUMENT_PATHS)}.")
        return
    unnamed = [name for name in document.absent if name in report.probes and report.probes[name].status == "ok"]
    if unnamed:
        report.add("note", "document", f"Not in the document, but they answer: {', '.join(unnamed)}.", *unnamed)
    if document.new:
        more = f" and {len(document.new) - 5} more (--json lists them)" if len(document.new) > 5 else ""
        report.add("note", "document", f"Lists the catalog does not know: {', '.join(document.new[:5])}{more}.")
    for name, text in document.fields:
        if name in report.probes:
            report.add("warning", "document", f"{name}: {text}. Look at a record before the next run.", name)


def _judge_endpoints(report: Report, side: checkup.DatabaseSide, *, fix: bool) -> None:
    """What the probes mean, and the overrides that follow from them."""
    groups: dict[str, list[str]] = {}
    for name, probe in report.probes.items():
        row, (on, _) = probe.endpoint, side.switches[probe.endpoint.job_id]
        if not on:
            if probe.status == "ok" and not row.active:
                report.add(
                    "note",
                    "endpoint",
                    f"{name} answers here though its job is off: trialsync-etl schedule --job-id {row.job_id} --enable",
                    name,
                )
            continue
        if probe.error is not None:
            report.add("error", "endpoint", _trouble(probe), name)
            continue
        configured = side.paths.get(row.job_id) or row.path
        if probe.path is not None and probe.path != configured:
            _judge_path(report, side, probe, configured, fix=fix)
        for group in _groups(probe):
            groups.setdefault(group, []).append(name)
        for text in probe.found.notes:
            groups.setdefault(f"{text[0].upper()}{text[1:]}", []).append(name)
    for text, names in groups.items():
        report.add("note", "endpoint", f"{text}: {', '.join(names)}.", *names)


def _judge_path(report: Report, side: checkup.DatabaseSide, probe: Probe, configured: str, *, fix: bool) -> None:
    """An endpoint answers, but elsewhere than it is looked for."""
    row, path = probe.endpoint, probe.path or ""
    if fix and side.override(row, path):
        report.fixed.append(f"{row.resource} (job {row.job_id}): source_endpoint is now {path}, it was {configured}")
        return
    # A run tries the catalog's other path by itself; another override has none.
    falls_back = path in row.at(configured).paths
    report.add(
        "warning" if falls_back else "error",
        "endpoint",
        f"{row.resource} answers at {path}, not at {configured}. `trialsync-etl doctor --fix` writes that into "
        "dw_etl_jobs.source_endpoint.",
        row.resource,
    )


def _groups(probe: Probe) -> Iterable[str]:
    """What is worth a remark about an endpoint that answers, in words that several endpoints share."""
    if probe.status == "-":
        yield "Not asked, as no parent of theirs is there"
    elif not probe.records:
        yield "Without a record to look at, so nothing can be told of paging and cursor"
    elif probe.endpoint.cursor and probe.found.cursor is None:
        yield "Without a cursor, so read in full every time"
    elif probe.cursor_filter in ("ignored", "refused"):
        yield f"The filter on {probe.found.cursor} is {probe.cursor_filter}, so read in full every time"
    if probe.found.bulk is False:
        yield "The bulk listing does not answer, so they are read parent by parent"


def _trouble(probe: Probe) -> str:
    """What an endpoint that does not answer means, without the ids of its path."""
    row = probe.endpoint
    off = f"trialsync-etl schedule --job-id {row.job_id} --disable"
    if probe.status == "404":
        return (
            f"{row.resource} answers 404 at {' and '.join(probe.tried)}. If this instance lacks it: {off}; "
            "if it has moved, write the new path into dw_etl_jobs.source_endpoint."
        )
    if isinstance(probe.error, EndpointNotOffered):
        return f"{row.resource} answers 501: this edition of Clinical Conductor does not have it. {off}"
    text = probe.text or ""
    return text if text.startswith(f"{row.resource}:") else f"{row.resource}: {text}"


def skew(seconds: float) -> str:
    """How far a clock is ahead or behind, in the largest unit that fits."""
    size = abs(seconds)
    for unit, length in (("days", 172_800.0), ("hours", 7_200.0), ("minutes", 120.0)):
        if size >= length:
            size, word = size / {"days": 86_400, "hours": 3_600, "minutes": 60}[unit], unit
            break
    else:
        word = "seconds"
    return f"{size:,.1f} {word} {'ahead of' if seconds > 0 else 'behind'}"

"""How fast the warehouse is, against CREATE TABLE AS SELECT: `python -m benchmarks.warehouse --rows 1000000`.

Makes up staged records in PostgreSQL itself, and then measures a first build of silver and gold, a run with nothing to
do, a full refresh, and a run after a hundredth of the records changed. The rival is CREATE TABLE AS SELECT of the same
typed projections, all of them, without keys, history or checks: PostgreSQL's own work, which a rebuild by hand does
every time.
"""

from __future__ import annotations

import argparse
import sys
import time

from psycopg import sql

from benchmarks.sides import database
from benchmarks.table import Row, against, end, figure, say
from clinical_conductor.database import Connection, connect
from clinical_conductor.migrations import migrate
from clinical_conductor.warehouse import transform

REBUILD = 2.5
"""A full refresh may take so many times what CREATE TABLE AS SELECT takes."""
FIRST_BUILD = 3.0
"""And the first build, which makes the indexes, too."""
UNCHANGED = 0.05
"""A run with nothing to do may take this share of the first build."""
SERVER = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
FILLER = (
    "'comment', repeat('Lorem ipsum dolor sit amet. ', 12), 'uid', gen_random_uuid(),"
    " 'tag1', 'a', 'tag2', 'b', 'importId', g"
)
PREVIEW = (
    "jsonb_build_object('id', {0}, 'Id', {0}, 'uid', gen_random_uuid(), 'name', 'Name ' || {0}, 'Name', 'Name ' || {0})"
)
STUDY, SITE = PREVIEW.format("g % 1000"), PREVIEW.format("g % 40")

# Table: share of all rows, parent, key, record.
TABLES: dict[str, tuple[float, str, str, str]] = {
    "dim_studies_staging": (
        0.001, "''", "g - 1",
        f"'name', 'Study ' || g, 'status', 'Enrolling', 'phase', 'III', 'title', repeat('Title ',"
        f" 20), 'sponsor', {SITE},"
        f" 'managingSite', {SITE}, 'createdOn', now() - g * interval '1 hour', 'targetEnrollment', 100,"
        " 'studyTypes', '[\"a\", \"b\"]'::jsonb",
    ),
    "dim_sites_staging": (0.0001, "''", "g", "'name', 'Site ' || g, 'active', true, 'country', 'DE'"),
    "dim_patients_staging": (
        0.15, "''", "g",
        "'firstName', 'First' || g, 'lastName', 'Last' || g, 'displayName', 'Last, First', 'status', 'Active',"
        " 'dateOfBirth', '1980-01-02T00:00:00', 'genderCode', 'F', 'race', 'Unknown', 'ethnicity',"
        " 'Unknown', 'city', 'Ulm',"
        f" 'address1', 'Street ' || g, 'zip', '89073', 'state', 'BW', 'country', 'DE', 'doNotMail',"
        f" false, 'primarySite', {SITE},"
        " 'primaryEmail', jsonb_build_object('email', 'x@example.com', 'doNotEmail', false),"
        " 'phone1', jsonb_build_object('number', '1', 'rawNumber', '1'), 'mrn', 'M' || g",
    ),
    "dim_subjects_staging": (
        0.05, "(g % 1000)::text", "g",
        f"'study', {STUDY}, 'site', {SITE}, 'patient', {PREVIEW.format('g')}, 'status',"
        f" 'Randomized', 'arm', {PREVIEW.format('g % 2')},"
        " 'enrollmentDate', '2025-01-01'::timestamp + g % 500 * interval '1 day', 'screeningNumber', 'S' || g,"
        " 'randomizationNumber', 'R' || g, 'genderCode', 'F', 'treatmentStart', '2025-02-01'",
    ),
    "dim_subject_statuses_staging": (
        0.12, "''", "'h' || g",
        f"'study', {STUDY}, 'site', {SITE}, 'subject', {PREVIEW.format('g % 50000')}, 'isCurrentStatus', g % 2 = 0,"
        " 'status', (array['Prescreened', 'Screened', 'Randomized', 'Completed', 'ScreenFailed'])[g % 5 + 1],"
        " 'eventDate', '2025-01-01'::timestamp + g % 600 * interval '1 day'",
    ),
    "dim_visits_staging": (
        0.02, "(g % 1000)::text", "g",
        f"'study', {STUDY}, 'name', 'Visit ' || g, 'type', 'Normal', 'budget', 100.5, 'cost', 50,"
        f" 'isActive', true, 'arms', '[]'::jsonb",
    ),
    "dim_elements_staging": (0.015, "''", "g", f"'study', {STUDY}, 'name', 'Element ' || g, 'type',"
                                               f" 'Lab', 'budget', 10, 'cost', 5"),
    "dim_patient_visits_staging": (
        0.32, "(g % 1000) || '/' || (g % 50000)", "g",
        f"'study', {STUDY}, 'subject', {PREVIEW.format('g % 50000')}, 'visitId', g % 20000,"
        f" 'visitName', 'Visit', 'sequence', g % 20,"
        " 'mandatory', true, 'status', 'Completed', 'targetDueDate', '2025-03-01T00:00:00',"
        " 'minDueDate', '2025-02-27T00:00:00',"
        " 'maxDueDate', '2025-03-03T00:00:00', 'appointments',"
        " jsonb_build_array(jsonb_build_object('id', g, 'status', 'Completed',"
        " 'scheduledStart', '2025-03-01T09:00:00', 'scheduledEnd', '2025-03-01T10:00:00'))",
    ),
    "dim_patient_visit_elements_staging": (
        0.3, "(g % 320000 + 1)::text", "g",
        "'elementId', g % 15000, 'name', 'Blood', 'sequence', g % 9, 'required', true,"
        " 'completedOn', '2025-03-01T09:30:00',"
        " 'repeatable', false, 'isRepeatedElement', false, 'durationMinutes', 10",
    ),
    "dim_patient_campaign_touches_staging": (
        0.025, "(g % 150000)::text", "g",
        f"'date', '2025-01-05T00:00:00', 'study', {STUDY}, 'campaignMedia', 'Radio',"
        f" 'campaignElement', {PREVIEW.format('g % 50')}",
    ),
}  # fmt: skip


def fill(conn: Connection, rows: int) -> int:
    """Make up staged records; how many."""
    total = 0
    for table, (share, parent, key, record) in TABLES.items():
        many = max(1, round(rows * share))
        statement = (
            f"insert into {table} (source_instance_id, parent_source_id, source_id, data)"
            f" select 1, {parent}, ({key})::text, jsonb_build_object('id', g, {FILLER}, {record})"
            f" from generate_series(1, {many}) as g"
        )
        conn.execute(statement.encode())
        conn.execute(sql.SQL("vacuum analyze {}").format(sql.Identifier(table)))
        total += many
    return total


def plain(conn: Connection) -> float:
    """Seconds that CREATE TABLE AS SELECT of every projection takes."""
    seconds = 0.0
    targets = conn.execute(
        "select target_table from dw_transformations where kind in ('scd2', 'type1', 'fact') order by position"
    ).fetchall()
    for (target,) in targets:
        row = conn.execute(
            "select dw_projection(%(t)s), array_to_string(dw_key_columns(%(t)s), ', '),"
            " (select string_agg(expression, ', ') from dw_typed_columns(%(t)s))",
            {"t": target},
        ).fetchone()
        assert row is not None
        view, keys, columns = row
        began = time.monotonic()
        conn.execute(f"create table bench_{target} as select {keys}, {columns} from {view} as v".encode())
        seconds += time.monotonic() - began
        conn.execute(f"drop table bench_{target}".encode())
    return seconds


def timed(url: str, what: str, *, full_refresh: bool = False) -> float:
    """Seconds that a transformation of everything takes."""
    began = time.monotonic()
    results = transform(url, full_refresh=full_refresh)
    seconds = time.monotonic() - began
    broken = [f"{result.procedure}: {result.error}" for result in results if result.status != "success"]
    if broken:
        raise RuntimeError("\n".join(broken))
    slowest = sorted(results, key=lambda result: -result.seconds)[:3]
    told = ", ".join(f"{result.procedure} {figure(result.seconds, 's')}" for result in slowest)
    say(f"silver and gold, {what}: {figure(seconds, 's')}; {told}")
    return seconds


def rows(many: int = 1_000_000, url: str | None = None, postgres: str = "18") -> list[Row]:
    """Fill an empty database, in a server of its own unless one is given, and measure everything once."""
    with database(url, version=postgres, options=SERVER) as (found, _), connect(found, autocommit=True) as conn:
        migrate(conn)
        staged = fill(conn, many)
        say(f"{staged:,} rows staged")
        conn.execute("checkpoint")
        first = timed(found, "first build")
        by_hand = plain(conn)
        say(f"CREATE TABLE AS SELECT of the same: {figure(by_hand, 's')}")
        unchanged = timed(found, "nothing changed")
        full = timed(found, "full refresh", full_refresh=True)
        for table in TABLES:
            statement = (
                'update {} set data = data || \'{{"status": "Changed", "sequence": 99}}\','
                " changed_xid = pg_current_xact_id(), updated_at = now() where id % 100 = 0"
            )
            conn.execute(sql.SQL(statement).format(sql.Identifier(table)))
        changed = timed(found, "1 % changed")
    share = unchanged / first
    return [
        against(
            f"silver first build, {staged:,} staged rows",
            by_hand,
            first,
            most=FIRST_BUILD,
            remark="by hand: CREATE TABLE AS SELECT",
        ),
        against("silver full refresh", by_hand, full, most=REBUILD),
        against("silver, 1 % changed", by_hand, changed),
        Row(
            "silver, nothing changed",
            figure(unchanged, "s"),
            figure(by_hand, "s"),
            unchanged / by_hand,
            f"≤ {UNCHANGED:.0%} of the first build",
            share <= UNCHANGED,
            f"{share:.1%} of the first build",
        ),
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--url", help="an empty database; otherwise a server is started and removed again")
    parser.add_argument("--postgres", default="18", help="version of that server")
    given = parser.parse_args()
    return end(rows(given.rows, given.url, given.postgres))


if __name__ == "__main__":
    sys.exit(main())

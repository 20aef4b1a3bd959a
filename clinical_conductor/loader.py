"""DataLoader: records of your own into a staging table, with the comparison, merge, counts and quarantine of a run.

    from clinical_conductor import DataLoader

    DataLoader().upsert_records("dim_sites_staging", [{"id": 12, "name": "Site 12"}])

A record is a mapping that can be written as JSON. Its key is what the catalog says of the table, or a field you name;
the field `parent_source_id`, if there is one, says whose child it is and is kept in its column instead of the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby, islice
from typing import Any
from uuid import uuid4

import msgspec
from psycopg import Connection

from clinical_conductor import runs
from clinical_conductor.catalog import ENDPOINTS, Endpoint, Key, find_endpoint
from clinical_conductor.chunk import Batch
from clinical_conductor.database import database_url, translated
from clinical_conductor.envelopes import open_envelope, read_document
from clinical_conductor.errors import ConfigurationError, RunFenced, TrialSyncError
from clinical_conductor.instances import ensure_instance
from clinical_conductor.landing import one_landing
from clinical_conductor.migrations import connect_migrated
from clinical_conductor.reading import batch_of
from clinical_conductor.records import RecordReader, Rejected
from clinical_conductor.settings import Settings, load_settings
from clinical_conductor.staging import Stage

BATCH_SIZE = 1000
"""Records that are compared with staging at once."""
PARENT = "parent_source_id"

_encode = msgspec.json.Encoder(decimal_format="number").encode


class DataLoader:
    """Puts records into staging tables. Each call is a run in the ledger, committed with what it brought."""

    def __init__(self, settings: Settings | None = None, instance: str | None = None) -> None:
        """Settings default to the environment and `.env`; `instance` is a name in dw_api_credentials."""
        self.settings = settings or load_settings()
        self.instance = instance

    def load_to_staging(
        self, table_name: str, records: Iterable[Mapping[str, Any]], job_id: int, run_id: int
    ) -> runs.Counts:
        """Merges records into the staging table of a job, on behalf of a run that is open and stays so.

        Raises:
            ConfigurationError: the job does not fill that table.
            RunFenced: there is no such run of this job, or it is closed.
            JobLocked: another run works on the table.
        """
        endpoint = find_endpoint(job_id)
        if endpoint.table != table_name:
            raise ConfigurationError(f"Job {job_id} fills {endpoint.table}, not {table_name}.")
        with connect_migrated(database_url(self.settings)) as conn:
            with translated():
                row = conn.execute(
                    "select source_instance_id from dw_etl_runs"
                    " where id = %s and job_id = %s and run_status = 'running'",
                    (run_id, endpoint.job_id),
                ).fetchone()
                if row is None:
                    raise RunFenced(f"Job {job_id} has no open run {run_id}, so nothing can be loaded for it.")
                runs.lock_table(conn, row[0], table_name, own_run=run_id)
            with self._stage(conn, endpoint, row[0], run_id) as stage:
                _take_all(stage, endpoint, records, BATCH_SIZE)
                stage.commit()
                return stage.counts

    def upsert_records(
        self, table_name: str, records: Iterable[Mapping[str, Any]], key_field: str | None = None
    ) -> runs.Counts:
        """Merges records by their key: new ones are inserted, those that differ updated, the rest left alone.

        Args:
            key_field: The field that is the key, dotted where nested; as the catalog says by default.

        Raises:
            ConfigurationError: no job fills that table.
            JobLocked: another run works on the table.
        """
        return self._in_own_run(table_name, records, key_field=key_field)

    def bulk_insert(
        self, table_name: str, records: Iterable[Mapping[str, Any]], batch_size: int = BATCH_SIZE
    ) -> runs.Counts:
        """As `upsert_records`, comparing `batch_size` records at a time: a key that is there is updated, never doubled.

        Raises:
            ConfigurationError: no job fills that table, or `batch_size` is less than 1.
            JobLocked: another run works on the table.
        """
        if batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size}; it has to be 1 or more.")
        return self._in_own_run(table_name, records, batch_size=batch_size)

    def truncate_and_reload(self, table_name: str, records: Iterable[Mapping[str, Any]]) -> runs.Counts:
        """Makes a table equal to the records: merges them, and archives and deletes all others of this instance.

        Nothing is truncated first: readers see the old rows until the new ones are committed, and rows that are
        served again keep their ids.

        Raises:
            ConfigurationError: no job fills that table.
            JobLocked: another run works on the table.
        """
        return self._in_own_run(table_name, records, replaces=True)

    def _in_own_run(
        self,
        table_name: str,
        records: Iterable[Mapping[str, Any]],
        *,
        key_field: str | None = None,
        batch_size: int = BATCH_SIZE,
        replaces: bool = False,
    ) -> runs.Counts:
        """Opens a run of the table's job, and closes it in the transaction that commits its last records."""
        endpoint = next((row for row in ENDPOINTS.values() if row.table == table_name and row.owner), None)
        if endpoint is None:
            raise ConfigurationError(f"No job fills {table_name}. `trialsync-etl list` shows the tables.")
        if key_field is not None:
            endpoint = replace(endpoint, key=Key("fields", (key_field,)))
        with connect_migrated(database_url(self.settings)) as conn:
            instance = ensure_instance(conn, self.settings, self.instance)
            with translated():
                runs.lock_table(conn, instance.id, table_name)
                run_id = runs.open_run(conn, endpoint.job_id, instance.id, batch_id=uuid4())
            try:
                with self._stage(conn, endpoint, instance.id, run_id, allow_mass_delete=replaces) as stage:
                    _take_all(stage, endpoint, records, batch_size)

                    def conclude() -> None:
                        if replaces:
                            stage.delete_unseen()
                        runs.close_run(conn, run_id, "success", stages=stage.seconds)

                    stage.commit(conclude)
                    return stage.counts
            except BaseException as error:
                message = f"{table_name}: records could not be loaded ({type(error).__name__})."
                told = str(error) if isinstance(error, TrialSyncError) else message
                with translated():
                    runs.close_run(conn, run_id, "failed", error=error, error_message=told)
                raise

    @contextmanager
    def _stage(
        self, conn: Connection[Any], endpoint: Endpoint, instance_id: int, run_id: int, **options: Any
    ) -> Iterator[Stage]:
        """A stage with a landing of its own, both gone afterwards."""
        with one_landing(database_url(self.settings), instance_id, self.settings.work_dir) as landing:
            stage = Stage(conn, landing, endpoint, run_id=run_id, instance_id=instance_id, **options)
            try:
                yield stage
            finally:
                stage.drop_chunk()


def _take_all(stage: Stage, endpoint: Endpoint, records: Iterable[Mapping[str, Any]], batch_size: int) -> None:
    """Stages records, so many at a time, keyed by the rules that hold for what the API serves."""
    rest = iter(records)
    while some := list(islice(rest, batch_size)):
        batch = Batch()
        for parent, group in groupby(some, key=_parent_of):
            texts: list[bytes] = []
            for record in group:
                try:
                    texts.append(_as_json(record))
                except (TypeError, ValueError, RecursionError) as error:
                    reason = f"cannot be written as JSON ({type(error).__name__})"
                    batch.rejected.append(Rejected(None, parent or "", reason, repr(record)))
            reader = RecordReader(endpoint, parent or "", () if parent is not None else endpoint.parent_fields)
            envelope = open_envelope(read_document(b"[%b]" % b",".join(texts)), what=endpoint.table)
            batch.extend(batch_of(reader.read(envelope).page(), parent or ""))
        stage.take(batch)


def _parent_of(record: Mapping[str, Any]) -> str | None:
    """Whose child a record says it is."""
    parent = record.get(PARENT) if isinstance(record, Mapping) else None
    return None if parent is None else str(parent)


def _as_json(record: Mapping[str, Any]) -> bytes:
    """A record as JSON text, without the name of its parent; a lone surrogate as an escape, to be set aside for it."""
    if isinstance(record, Mapping):
        record = {name: value for name, value in record.items() if name != PARENT}
    try:
        return _encode(record)
    except UnicodeEncodeError:
        return json.dumps(record).encode()

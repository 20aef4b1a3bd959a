"""What to do about what went wrong: for every error of errors.py one sentence and one command.

The dashboard, the API, the alerts and docs/troubleshooting.md say the same, because they all read it here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remedy:
    """What an error means to the person on call, and the command that mends it."""

    meaning: str
    command: str


_RETRY = "trialsync-etl retry --run-id {run}"
_AGAIN = "trialsync-etl run --job-id {job}"
_OF_AN_INSTANCE = ("trialsync-etl run", "trialsync-etl retry --failed", "trialsync-etl doctor")
"""Commands that take --instance; a run's number says whose it is."""
_DOCTOR = "trialsync-etl doctor --resources {resource}"
_OFF = "trialsync-etl schedule --job-id {job} --disable"

REMEDIES: dict[str, Remedy] = {
    "RateLimited": Remedy(
        "The API asked for fewer requests. Lower CC_API_RATE_LIMIT if it keeps asking, then run it again.", _RETRY
    ),
    "ServerTrouble": Remedy("The API had trouble of its own. Nothing is lost; run it again.", _RETRY),
    "ConnectionTrouble": Remedy("The API could not be reached. Once it answers again, run it again.", _RETRY),
    "ReadTimeout": Remedy(
        "The API was silent longer than ETL_TIMEOUT_SECONDS. Run it again, or raise the limit.", _RETRY
    ),
    "UnreadableAnswer": Remedy(
        "The API answered with something that is not JSON (a proxy's page?). Run it again.", _RETRY
    ),
    "DatabaseTrouble": Remedy("PostgreSQL dropped the connection. What was committed stays; run it again.", _RETRY),
    "RecordRejected": Remedy(
        "Some records cannot be stored as they are. They are kept in dw_etl_rejected_records with the reason, and go "
        "away once they are corrected upstream.",
        "trialsync-etl history --job-id {job}",
    ),
    "ParentFailed": Remedy("Some parents could not be asked. They stay owed; this asks for them only.", _RETRY),
    "ParentGone": Remedy(
        "A parent no longer exists upstream. Nothing to do; it is asked for again when it changes.",
        "trialsync-etl history --job-id {job}",
    ),
    "ConfigurationError": Remedy("A setting is missing or wrong; the message names it.", "trialsync-etl doctor"),
    "Unauthorised": Remedy(
        "The API refused the key or its header. The doctor tells which header it takes: set CC_API_KEY_HEADER, or "
        "CC_API_KEY, then retry.",
        "trialsync-etl doctor",
    ),
    "EndpointNotFound": Remedy(
        "The endpoint is on neither of its known paths. The doctor looks for one that answers and writes it down.",
        _DOCTOR + " --fix",
    ),
    "EndpointNotOffered": Remedy("This edition of Clinical Conductor lacks the endpoint: switch the job off.", _OFF),
    "BadRequest": Remedy("The API refuses the request in every form. The doctor tells what it accepts.", _DOCTOR),
    "UnknownEnvelope": Remedy("The API answers in a shape we do not know. The doctor describes it.", _DOCTOR),
    "PagingBroken": Remedy(
        "The endpoint cannot be listed without losing rows, so nothing was deleted. The doctor tells what it supports.",
        _DOCTOR,
    ),
    "MassDelete": Remedy(
        "More rows than usual are gone upstream, so none was deleted here. If that is right, allow it once.",
        "trialsync-etl run --job-id {job} --allow-mass-delete",
    ),
    "JobLocked": Remedy("Another run is loading this table. Wait for it to end, then run it again.", _RETRY),
    "RunFenced": Remedy("Another process closed this run while it worked. The newer run counts.", _RETRY),
    "WorkspaceTrouble": Remedy(
        "The loader's own disk is full, or may not be written. Make room where TRIALSYNC_HOME is, then run it again.",
        _RETRY,
    ),
    "DatabaseRefused": Remedy(
        "PostgreSQL refused: a permission or a constraint. Mend that, then run it again.", _RETRY
    ),
    "DatabaseFull": Remedy(
        "The database's disk is full. What was committed stays, the rest was rolled back. Free space, then run it "
        "again.",
        _RETRY,
    ),
    "Interrupted": Remedy("Somebody ended the run. What was committed stays; go on with it.", _RETRY),
    "JobTimedOut": Remedy(
        "It took longer than its timeout_seconds: a slow API, or much to do. What was read is staged; run it again for "
        "the rest.",
        _RETRY,
    ),
    "DependencyFailed": Remedy(
        "A job that it needs failed, so it did not begin. Once that one is mended, this runs both.",
        "trialsync-etl retry --failed",
    ),
    "BudgetSpent": Remedy(
        "The budget of the run was spent before its turn. Nothing to do: it comes first next time.", _AGAIN
    ),
    "MigrationError": Remedy("The schema could not be brought up to date.", "trialsync-etl db migrate"),
    # Not classes of errors.py: what the ledger itself shows.
    "Killed": Remedy("The process ended in the middle. What was committed stays; run it again.", _RETRY),
    "stuck": Remedy(
        "The run has been silent for 15 minutes. If its process is gone, a new run closes it and goes on.",
        _AGAIN,
    ),
    "overdue": Remedy(
        "The schedule's time passed and no run began. Is the scheduler (serve, cron or timer) alive?",
        _AGAIN,
    ),
    "warning": Remedy(
        "The run succeeded and has something to say; see its warning.", "trialsync-etl history --job-id {job}"
    ),
}

NO_LEDGER: dict[str, Remedy] = {
    "DatabaseTrouble": Remedy("the database cannot be reached", "trialsync-etl doctor"),
    "DatabaseFull": Remedy("the disk of the database is full", "trialsync-etl doctor"),
    "DatabaseRefused": Remedy("the database refuses the loader", "trialsync-etl doctor"),
    "MigrationError": Remedy("the schema cannot be brought up to date", "trialsync-etl db migrate"),
}
"""What it means when the ledger itself cannot be used, in the middle of a sentence, and the command that tells more."""

TRANSFORMATION = Remedy(
    "A procedure of silver or gold failed; staging is as it should be. The dashboard tells why, under Warehouse.",
    "trialsync-etl transform",
)

QUALITY = Remedy("A check of the data found rows that should not be.", "trialsync-etl check")

UNKNOWN = Remedy("The job failed unexpectedly. What was committed stays; run it again and read the log.", _RETRY)


def remedy_for(
    kind: str | None, *, job_id: int, resource: str, run_id: int | None, instance: str | None = None
) -> Remedy:
    """What to do about one job, with its numbers filled in.

    Args:
        instance: Named by the command that needs it; None where there is only one.

    >>> remedy_for("ServerTrouble", job_id=2, resource="studies", run_id=17).command
    'trialsync-etl retry --run-id 17'
    >>> remedy_for("overdue", job_id=2, resource="studies", run_id=17, instance="west").command
    'trialsync-etl run --job-id 2 --instance west'
    """
    remedy = REMEDIES.get(kind or "", UNKNOWN)
    template = remedy.command
    if run_id is None:
        template = template.replace("retry --run-id {run}", "run --job-id {job}")
    command = template.format(job=job_id, resource=resource, run=run_id)
    if instance is not None and command.startswith(_OF_AN_INSTANCE):
        command += f" --instance {shlex.quote(instance)}"
    return Remedy(remedy.meaning, command)


def wants_retry(status: str | None, kind: str | None) -> bool:
    """Whether `retry --failed` runs a job again: it failed, or was skipped for another reason than its budget."""
    return status == "failed" or (status == "skipped" and kind in ("DependencyFailed", "Interrupted"))


_MANY = (
    (re.compile(r"trialsync-etl retry --(run-id \d+|failed)"), "trialsync-etl retry --failed"),
    (re.compile(r"trialsync-etl run --job-id \d+"), "trialsync-etl run"),
)
"""Commands of one job, and the one that does the same for all jobs."""


def fewest_commands(commands: Iterable[str]) -> list[str]:
    """What mends several troubles with the least typing. Runs and retries bring silver and gold up to date, too.

    >>> fewest_commands(["trialsync-etl retry --run-id 7", "trialsync-etl doctor", "trialsync-etl retry --run-id 9"])
    ['trialsync-etl retry --failed', 'trialsync-etl doctor']
    """
    found = list(dict.fromkeys(commands))
    for pattern, all_of_them in _MANY:
        if sum(pattern.fullmatch(command) is not None for command in found) > 1:
            found = list(dict.fromkeys(all_of_them if pattern.fullmatch(command) else command for command in found))
    loading = any(command.startswith(("trialsync-etl retry", "trialsync-etl run")) for command in found)
    return [command for command in found if not (loading and command == TRANSFORMATION.command)]

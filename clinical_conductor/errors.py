"""What can go wrong, grouped by how one recovers from it. The type decides, never the message.

    TrialSyncError                         everything this package raises on purpose
    ├── RetriableError                     the same request may succeed later: retried with backoff
    │   ├── RateLimited                      429, or 503 with Retry-After
    │   ├── ServerTrouble                    500, 502, 503, 504, 408, 425
    │   ├── ConnectionTrouble                refused, reset, cut in the middle, DNS, TLS handshake
    │   ├── ReadTimeout                      no byte within ETL_TIMEOUT_SECONDS
    │   ├── UnreadableAnswer                 a 200 whose body is broken JSON, HTML or the page before again
    │   └── DatabaseTrouble                  connection lost, deadlock, serialisation failure
    ├── SkippableError                     one record or one parent: recorded, the rest goes on
    │   ├── RecordRejected                   one record that cannot be staged: quarantined
    │   └── ParentFailed                     one parent's own request failed: stays owed
    │       └── ParentGone                     404 or 410 for one parent: recorded, not asked again every night
    └── FatalError                         asking again cannot help: the job (or the run) fails at once
        ├── ConfigurationError               a setting is missing or wrong: exit code 2
        ├── Unauthorised                     401, 403
        ├── EndpointNotFound                 404 for a whole endpoint, alternate path included
        ├── EndpointNotOffered               501: this edition of Clinical Conductor lacks it
        ├── BadRequest                       400 that no fallback of the client could avoid
        ├── UnknownEnvelope                  a JSON shape the client does not know; names keys, never data
        ├── PagingBroken                     the endpoint cannot be enumerated without losing rows
        ├── MassDelete                       more rows would be deleted than the threshold allows
        ├── JobLocked                        another run holds this table
        ├── Interrupted                      the process was asked to stop (SIGTERM, SIGINT, a deadline)
        ├── JobTimedOut                      the job took longer than its timeout_seconds
        ├── DependencyFailed                 a job that this one needs failed, so it was skipped
        ├── BudgetSpent                      --max-requests or --deadline was spent before its turn, so it was skipped
        ├── RunFenced                        this run was closed by someone else while it worked
        ├── WorkspaceTrouble                 no room, or no permission, for work files under TRIALSYNC_HOME
        ├── DatabaseRefused                  constraint, permission, unsupported server
        │   └── DatabaseFull                   the database's disk is full
        └── MigrationError                   the schema could not be brought up to date

No message carries a record's content, a header or a key. Every message names the endpoint, job or table it is
about and ends with what to do next.
"""

from __future__ import annotations


class TrialSyncError(Exception):
    """Everything this package raises on purpose."""

    category: str = "system"
    """Who has to look: "api", "database", "data", "configuration" or "system" (shown by the dashboard)."""


class RetriableError(TrialSyncError):
    """The same request may succeed later; `retry_after` is the server's own wish in seconds, if it had one."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(RetriableError):
    """The API answered 429, or 503 with Retry-After."""

    category = "api"


class ServerTrouble(RetriableError):
    """The API answered 408, 425, 500, 502, 503 or 504."""

    category = "api"


class ConnectionTrouble(RetriableError):
    """The API could not be reached, or the connection broke in the middle of an answer."""

    category = "api"


class ReadTimeout(RetriableError):
    """The API sent no byte within ETL_TIMEOUT_SECONDS."""

    category = "api"


class UnreadableAnswer(RetriableError):
    """The API answered 200 with something that is not the JSON asked for."""

    category = "api"


class DatabaseTrouble(RetriableError):
    """PostgreSQL lost the connection, or chose this transaction as the victim of a deadlock."""

    category = "database"


class SkippableError(TrialSyncError):
    """One record or one parent is in trouble; it is recorded and everything else goes on."""


class RecordRejected(SkippableError):
    """One record cannot be staged; it goes to dw_etl_rejected_records with its reason."""

    category = "data"


class ParentFailed(SkippableError):
    """The request for one parent's children failed; the parent stays owed."""

    category = "api"


class ParentGone(ParentFailed):
    """The API answered 404 or 410 for one parent; recorded, and not asked again until the parent changes."""


class FatalError(TrialSyncError):
    """Asking again cannot help."""


class ConfigurationError(FatalError):
    """A setting is missing or wrong. The command line exits with 2."""

    category = "configuration"


class Unauthorised(FatalError):
    """The API answered 401 or 403: the key, or the header it travels in, is wrong."""

    category = "api"


class EndpointNotFound(FatalError):
    """The API answered 404 for a whole endpoint, and for its alternate path too."""

    category = "api"


class EndpointNotOffered(FatalError):
    """The API answered 501: this edition of Clinical Conductor does not have the endpoint."""

    category = "api"


class BadRequest(FatalError):
    """The API answered 400 to a request that the client could not simplify any further."""

    category = "api"


class UnknownEnvelope(FatalError):
    """The API answered with JSON in a shape the client does not know. The message names the keys, never the data."""

    category = "api"


class PagingBroken(FatalError):
    """The endpoint cannot be enumerated without losing rows (one key fills a page, or the pages never settle)."""

    category = "api"


class MassDelete(FatalError):
    """A complete enumeration would delete more rows of a table than the threshold allows."""

    category = "data"


class JobLocked(FatalError):
    """Another run holds the lock of this instance and table."""

    category = "database"


class Interrupted(FatalError):
    """The process was asked to stop: what is committed stays, the rest is owed."""


class JobTimedOut(FatalError):
    """The job took longer than its timeout_seconds: what is committed stays, the rest is owed."""

    category = "api"


class DependencyFailed(FatalError):
    """A job that this one needs did not succeed in the same run, so it was skipped."""


class BudgetSpent(FatalError):
    """The budget of a run (--max-requests, --deadline) was spent before the job's turn, so it was skipped."""


class RunFenced(FatalError):
    """The run's row is no longer 'running': another process closed it, so nothing more may be committed for it."""

    category = "database"


class WorkspaceTrouble(FatalError):
    """This machine's disk is full, or work files may not be written under TRIALSYNC_HOME."""


class DatabaseRefused(FatalError):
    """PostgreSQL refused for good: a constraint, a permission, a server that is too old."""

    category = "database"


class DatabaseFull(DatabaseRefused):
    """The disk of PostgreSQL is full: what was committed stays, the rest is rolled back."""


class MigrationError(FatalError):
    """The database's schema could not be brought up to date."""

    category = "database"

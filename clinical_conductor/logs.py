"""Logs: structured, correlated by run and job, and unable to carry a secret or a record.

`configure_logging(settings)` once per process; `get_logger(__name__)` in a module; `log_context(job_id=…, run_id=…)`
around the work of one job, in the thread that does it. A line goes to standard error (readable on a terminal, JSON
otherwise) and, as JSON, to LOG_FILE when there is one.

Three rules keep data out, whatever is logged:

- Other packages (dlt, urllib3, psycopg, …) speak from WARNING on, and without their text: they quote rows and headers.
- An exception is its class and where it happened. Its message is kept only when this package wrote it.
- Every configured secret is masked in every line, and a line is cut at 2,000 characters.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import fields
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

import structlog

from clinical_conductor.errors import TrialSyncError
from clinical_conductor.settings import Setting, Settings

OWN = "clinical_conductor"
FILE_BYTES = 10 * 1024 * 1024
FILE_BACKUPS = 5
TEXT_LIMIT = 2_000
WITHHELD = "text withheld: it may quote records or headers"


def get_logger(name: str) -> Any:
    """A structlog logger: `get_logger(__name__).info("job finished", rows=3)`.

    Where nobody called `configure_logging` (a notebook, another program), lines go to the standard library's logging.
    """
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.contextvars.merge_contextvars,
                _describe_exception,
                _Masker(()),
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
    return structlog.stdlib.get_logger(name)


@contextlib.contextmanager
def log_context(**fields: object) -> Iterator[None]:
    """Every line logged inside, by this thread, carries `fields` (run_id, job_id, resource, batch_id)."""
    with structlog.contextvars.bound_contextvars(**fields):
        yield


def secrets_of(settings: Settings) -> tuple[str, ...]:
    """The texts of `settings` that no line may carry: its secret values, and the password inside a URL."""
    found: set[str] = set()
    for item in fields(settings):
        setting: Setting = item.metadata["setting"]
        value = str(getattr(settings, item.name)) if setting.secret else ""
        found.add(value)
        with contextlib.suppress(ValueError):
            password = urlsplit(value).password or ""
            found.update((password, unquote(password)))
    # A one-letter password would mask every line beyond use.
    return tuple(sorted((text for text in found if len(text) >= 4), key=len, reverse=True))


def configure_logging(
    settings: Settings, *, pretty: bool | None = None, stream: TextIO | None = None, secrets: Iterable[str] = ()
) -> None:
    """Send this process's logs where the settings say. May be called again; the last call holds.

    A LOG_FILE that cannot be written is said once on standard error and otherwise ignored: it must not fail a job.

    Args:
        settings: LOG_LEVEL, LOG_FILE, and the secrets to mask.
        pretty: Lines for people instead of JSON; by default whether `stream` is a terminal.
        stream: Stands in for standard error.
        secrets: More texts to mask, such as the addresses of alerts.
    """
    out = stream or sys.stderr
    masked = (*(text for text in secrets if text), *secrets_of(settings))
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _describe_exception,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )

    def formatter(renderer: Any) -> logging.Formatter:
        return structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _Masker(masked),
                renderer,
            ],
        )

    as_json = structlog.processors.JSONRenderer()
    if pretty is None:
        pretty = out.isatty()
    console = _Console(out)
    console.setFormatter(formatter(structlog.dev.ConsoleRenderer(colors=out.isatty()) if pretty else as_json))
    handlers: list[logging.Handler] = [console]
    if settings.log_file:
        handlers.append(_open_file(Path(settings.log_file), formatter(as_json), console))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, (_Console, _File, logging.NullHandler)):
            root.removeHandler(old)
            old.close()
    for handler in handlers:
        handler.addFilter(_strip_foreign)
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(OWN).setLevel(settings.log_level.upper())
    _quiet_others()
    logging.captureWarnings(capture=True)


def _quiet_others() -> None:
    """Take the handlers and levels away that other packages gave themselves, so that only ours see their lines."""
    for name, logger in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.split(".")[0] != OWN:
            logger.setLevel(max(logger.level, logging.WARNING))
    for name in ("dlt", "urllib3", "requests", "psycopg", "psycopg.pool", "apprise", "apscheduler", "uvicorn", "httpx"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.handlers.clear()
        logger.propagate = True


def _strip_foreign(record: logging.LogRecord) -> bool:
    """Drop other packages' lines below WARNING, and the text of the rest."""
    if record.name.split(".")[0] == OWN:
        return True
    if record.levelno < logging.WARNING:
        return False
    record.msg, record.args = f"{record.filename}:{record.lineno}: {WITHHELD}", None
    record.exc_text = record.stack_info = None
    return True


def _describe_exception(_logger: Any, _name: str, event: Any) -> Any:
    """`exc_info` as class and place. Only our own errors keep their message, which names no data by their rule."""
    info = event.pop("exc_info", None)
    event.pop("stack_info", None)
    record = event.get("_record")
    if info is None and record is not None and record.exc_info:
        info, record.exc_info = record.exc_info, None
    if info is True:
        info = sys.exc_info()
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    if error is not None:
        event["error_type"] = type(error).__name__
        event["error_at"] = _place(error.__traceback__)
        if isinstance(error, TrialSyncError):
            event["error"] = str(error)
    return event


def _place(trace: TracebackType | None) -> str:
    """The last three frames as file:line function; never their values."""
    frames = traceback.extract_tb(trace)[-3:]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))


class _Masker:
    """The last processor before rendering: plain short values only, with every secret replaced."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self.secrets = secrets

    def __call__(self, _logger: Any, _name: str, event: Any) -> Any:
        return {key: self._plain(value) for key, value in event.items()}

    def _plain(self, value: object) -> object:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, TrialSyncError):
            text = str(value)
        elif isinstance(value, BaseException):
            text = type(value).__name__
        elif isinstance(value, (list, tuple, set, dict, bytes, bytearray, memoryview)):
            # A container or bytes is how a record would get here.
            return f"{type(value).__name__} of {len(value)}"
        else:
            text = str(value)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "…"


class _Console(logging.StreamHandler[TextIO]):
    """Standard error; a closed or full one loses the line and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        """Lose the line: logging's default would print the record's arguments."""


class _File(RotatingFileHandler):
    """LOG_FILE, rotated at 10 MB with five old files. A full disk loses lines, said once on standard error."""

    def __init__(self, path: Path, console: _Console) -> None:
        super().__init__(path, maxBytes=FILE_BYTES, backupCount=FILE_BACKUPS, encoding="utf-8")
        self.console = console
        self.failed = False
        self.complained = False

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=_private)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 (logging's own names)
        """Say once that the file cannot be written."""
        self.failed = True
        if not self.complained:
            self.complained = True
            _complain(self.console, Path(self.baseFilename), sys.exc_info()[1])

    def close(self) -> None:
        """Close the file; lines that the full disk never took are lost."""
        with contextlib.suppress(OSError):
            super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. After a failure the file is opened anew, so a freed disk is used again."""
        if self.failed and self.stream is not None:
            with contextlib.suppress(OSError):
                self.stream.close()
            self.stream = None
        self.failed = False
        super().emit(record)
        if not self.failed:
            self.complained = False


def _private(path: str, flags: int) -> int:
    """Open as only its owner may read."""
    return os.open(path, flags, 0o600)


def _open_file(path: Path, formatter: logging.Formatter, console: _Console) -> logging.Handler:
    """The file's handler, or one that does nothing when the file cannot be opened."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _File(path, console)
    except OSError as error:
        _complain(console, path, error)
        return logging.NullHandler()
    handler.setFormatter(formatter)
    return handler


def _complain(console: _Console, path: Path, error: BaseException | None) -> None:
    """One line on standard error about a LOG_FILE that cannot be written."""
    reason = error.strerror if isinstance(error, OSError) else type(error).__name__
    text = f"LOG_FILE {path} cannot be written ({reason}); the log goes on here. Free the disk or change LOG_FILE."
    console.handle(
        logging.makeLogRecord({"name": OWN, "msg": text, "levelno": logging.WARNING, "levelname": "WARNING"})
    )

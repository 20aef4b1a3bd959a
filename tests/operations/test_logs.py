"""Logs carry what a person on call needs, and can carry neither a secret nor a record."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from clinical_conductor.errors import MassDelete
from clinical_conductor.logs import configure_logging, get_logger, log_context, secrets_of
from clinical_conductor.settings import Settings

SECRET = "key-0f3c9a"
log = get_logger("clinical_conductor.test")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    configure_logging(Settings())
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler).__module__ == "clinical_conductor.logs":
            root.removeHandler(handler)
    logging.captureWarnings(capture=False)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_json_with_the_context_of_its_job() -> None:
    out = io.StringIO()
    configure_logging(Settings(), stream=out)
    with log_context(job_id=2, run_id=17):
        log.info("job finished", rows=3)
        logging.getLogger("clinical_conductor.other").info("plain %s", "logging")
    log.info("after")
    first, second, third = lines(out)
    assert (first["event"], first["rows"], first["job_id"], first["run_id"], first["level"]) == (
        "job finished",
        3,
        2,
        17,
        "info",
    )
    assert (second["event"], second["run_id"]) == ("plain logging", 17)
    assert "run_id" not in third


def test_level_is_obeyed_for_our_lines_only() -> None:
    out = io.StringIO()
    configure_logging(Settings(log_level="DEBUG"), stream=out)
    log.debug("seen")
    for other in ("dlt", "urllib3.connectionpool", "psycopg.pool", "something.new"):
        logging.getLogger(other).info("GET with X-ApiKey %s", SECRET)
    assert [line["event"] for line in lines(out)] == ["seen"]
    configure_logging(Settings(log_level="ERROR"), stream=out)
    log.warning("unseen")
    assert "unseen" not in out.getvalue()


def test_other_packages_lose_their_text_but_not_their_warning() -> None:
    out = io.StringIO()
    configure_logging(Settings(), stream=out)
    logging.getLogger("dlt").error("row was {'name': 'Jane'}")
    try:
        raise ValueError("Jane")
    except ValueError:
        logging.getLogger("psycopg").exception("DETAIL: Jane")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("Jane", stacklevel=1)
    assert "Jane" not in out.getvalue()
    first, second, third = lines(out)
    assert first["logger"] == "dlt"
    assert second["error_type"] == "ValueError"
    assert third["logger"] == "py.warnings"


def test_exception_is_class_and_place_and_only_our_own_message() -> None:
    out = io.StringIO()
    configure_logging(Settings(), stream=out)
    for error in (ValueError("Jane"), MassDelete("12 of 20 rows of dim_x_staging would go")):
        try:
            raise error
        except Exception:
            log.exception("job failed")
    foreign, own = lines(out)
    assert foreign["error_type"] == "ValueError"
    assert "Jane" not in json.dumps(foreign)
    assert "test_logs.py" in foreign["error_at"]
    assert own["error"] == "12 of 20 rows of dim_x_staging would go"


def test_values_that_could_be_records_and_secrets_are_masked() -> None:
    out = io.StringIO()
    settings = Settings(api_key=SECRET, database_url="postgresql://etl:pass%40word@db.example.com/x")
    assert set(secrets_of(settings)) == {SECRET, settings.database_url, "pass%40word", "pass@word"}
    configure_logging(settings, stream=out, secrets=["hook-secret"])
    log.info(f"with {SECRET}", record={"name": "Jane"}, body=b"Jane", url=settings.database_url, word="pass@word")  # noqa: G004
    log.info("hook-secret", long="x" * 5000, error=ValueError("Jane"))
    text = out.getvalue()
    assert not [word for word in (SECRET, "Jane", "pass@word", "pass%40word", "hook-secret") if word in text]
    assert lines(out)[0]["record"] == "dict of 1"
    assert len(lines(out)[1]["long"]) < 2100


def test_pretty_lines_for_people() -> None:
    out = io.StringIO()
    configure_logging(Settings(api_key=SECRET), pretty=True, stream=out)
    log.info("job finished", rows=3, key=SECRET)
    assert "job finished" in out.getvalue()
    assert "rows=3" in out.getvalue()
    assert SECRET not in out.getvalue()


def test_log_file_is_private_and_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinical_conductor.logs.FILE_BYTES", 2_000)
    path = tmp_path / "new" / "trialsync.log"
    configure_logging(Settings(log_file=str(path)), stream=io.StringIO())
    for number in range(60):
        log.info("line", number=number)
    assert path.stat().st_mode & 0o077 == 0
    assert 2 <= len(list(path.parent.iterdir())) <= 6
    assert json.loads(path.read_text().splitlines()[-1])["number"] == 59


@pytest.mark.parametrize("path", ["/dev/full", "/proc/none/trialsync.log"])
def test_log_file_that_cannot_be_written_fails_nothing_and_is_said_once(path: str) -> None:
    out = io.StringIO()
    configure_logging(Settings(log_file=path), stream=out)
    for number in range(3):
        log.info("line", number=number)
    said = [line["event"] for line in lines(out)]
    assert said.count("line") == 3
    assert sum(path in text for text in said) == 1
    configure_logging(Settings(), stream=out)


def test_freed_disk_is_used_again(tmp_path: Path) -> None:
    out, path = io.StringIO(), tmp_path / "trialsync.log"
    path.symlink_to("/dev/full")
    configure_logging(Settings(log_file=str(path)), stream=out)
    log.info("lost")
    path.unlink()
    log.info("kept")
    assert json.loads(path.read_text().splitlines()[-1])["event"] == "kept"


def test_closed_standard_error_fails_nothing(tmp_path: Path) -> None:
    out = io.StringIO()
    configure_logging(Settings(), stream=out)
    out.close()
    log.info("nobody hears this")


def test_without_configuration_lines_go_to_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    structlog.reset_defaults()
    quiet = get_logger("clinical_conductor.notebook")
    with caplog.at_level("INFO", logger="clinical_conductor.notebook"):
        quiet.info("job finished", rows=3, record={"name": "Jane"})
    assert caplog.messages == ["event='job finished' rows=3 record='dict of 1'"]

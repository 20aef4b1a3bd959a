"""Settings: where each value comes from, what is refused, and that .env.example lists all of them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from clinical_conductor.errors import ConfigurationError
from clinical_conductor.operations_cli import SERVE_SETTINGS
from clinical_conductor.settings import Settings, check_base_url, env_name, load_settings

ROOT = Path(__file__).parents[2]

NAMES_OF_THE_BRIEF = {
    "DATABASE_HOST",
    "DATABASE_PORT",
    "DATABASE_NAME",
    "DATABASE_USER",
    "DATABASE_PASSWORD",
    "CC_API_BASE_URL",
    "CC_API_KEY",
    "ETL_BATCH_SIZE",
    "ETL_MAX_RETRIES",
    "ETL_RETRY_DELAY_SECONDS",
    "ETL_PARALLEL_JOBS",
    "ETL_TIMEOUT_SECONDS",
    "LOG_LEVEL",
    "LOG_FILE",
    "ENABLE_METRICS",
    "METRICS_PORT",
    "ALERT_EMAIL",
}


def load(dotenv: Path | None = None, /, **environ: str) -> Settings:
    return load_settings(environ, dotenv=dotenv)


def test_every_setting_of_the_brief_is_read() -> None:
    assert {env_name(item.name) for item in fields(Settings)} >= NAMES_OF_THE_BRIEF


def test_defaults_are_those_of_the_brief() -> None:
    settings = load()
    assert (settings.batch_size, settings.max_retries, settings.retry_delay_seconds) == (1000, 3, 5.0)
    assert (settings.parallel_jobs, settings.timeout_seconds, settings.metrics_port) == (5, 300.0, 9090)
    assert (settings.api_key_header, settings.api_rate_limit) == ("X-ApiKey", 10.0)
    assert settings.database is None


def test_an_argument_outranks_the_environment_and_that_outranks_dotenv(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("ETL_BATCH_SIZE=100\nETL_PARALLEL_JOBS=2\nETL_MAX_RETRIES=1\nCC_API_KEY='a b#c'\n")
    settings = load_settings({"ETL_PARALLEL_JOBS": "3", "ETL_MAX_RETRIES": "4"}, dotenv=dotenv, max_retries=7)
    assert (settings.batch_size, settings.parallel_jobs, settings.max_retries) == (100, 3, 7)
    assert settings.api_key == "a b#c"


def test_an_empty_variable_means_the_default(tmp_path: Path) -> None:
    assert load(tmp_path / "none", ETL_BATCH_SIZE=" ", CC_API_KEY="").batch_size == 1000


def test_fractions_and_switches_are_read() -> None:
    assert load(ETL_RETRY_DELAY_SECONDS="0.25").retry_delay_seconds == 0.25
    assert load(ENABLE_METRICS="No").enable_metrics is False
    assert load(ENABLE_METRICS="1").enable_metrics is True
    assert load(TRIALSYNC_HOME="/var/lib/trialsync").work_dir == Path("/var/lib/trialsync")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ETL_BATCH_SIZE", "0"),
        ("ETL_BATCH_SIZE", "1001"),
        ("ETL_BATCH_SIZE", "many"),
        ("CC_API_RATE_LIMIT", "nan"),
        ("ETL_TIMEOUT_SECONDS", "inf"),
        ("METRICS_PORT", "65536"),
        ("DATABASE_PORT", "-1"),
        ("TRIALSYNC_JOBS", "no/such/file.yaml"),
        ("ETL_PARALLEL_JOBS", "0"),
        ("ETL_MAX_RETRIES", "-1"),
        ("ETL_RETRY_DELAY_SECONDS", "-0.1"),
        ("CC_API_RATE_LIMIT", "-1"),
        ("ETL_TIMEOUT_SECONDS", "0"),
        ("DATABASE_PORT", "5432x"),
        ("ENABLE_METRICS", "perhaps"),
        ("LOG_LEVEL", "LOUD"),
        ("ALERT_SMTP_URL", "mail.example.com:25"),
        ("ALERT_SLACK_WEBHOOK", "hooks.slack.com/services/T/B/x"),
        ("ALERT_PING_URL", "ping"),
        ("CC_API_BASE_URL", "ccs.example.com/CCSWEB"),
        ("CC_API_BASE_URL", "ftp://ccs.example.com"),
        ("CC_API_BASE_URL", "http://ccs.example.com/CCSWEB"),
        ("CC_API_BASE_URL", "https://user:pw@ccs.example.com/CCSWEB"),
        ("CC_API_BASE_URL", "https://ccs.example.com/CCSWEB?key=1"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load(**{name: value})


def test_a_refused_base_url_does_not_repeat_the_credentials_in_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_base_url("https://someone:hunter2@ccs.example.com")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://ccs.example.com/CCSWEB", "https://ccs.example.com:8443/a/b/", "http://127.0.0.1:8765", "http://[::1]:1"],
)
def test_any_base_path_over_https_and_plain_http_on_this_machine_are_fine(url: str) -> None:
    assert load(CC_API_BASE_URL=url).api_base_url == url


def test_the_database_url_is_made_of_its_parts_and_outranked_by_a_whole_one() -> None:
    parts = {
        "DATABASE_HOST": "db.example.com",
        "DATABASE_USER": "me@x",
        "DATABASE_PASSWORD": "p:/ä",
        "DATABASE_NAME": "a b",
    }
    assert load(**parts).database == "postgresql://me%40x:p%3A%2F%C3%A4@db.example.com:5432/a%20b"
    assert load(DATABASE_HOST="::1").database == "postgresql://trialsync@[::1]:5432/trialsync"
    assert load(**parts, DATABASE_URL="postgresql://localhost/x").database == "postgresql://localhost/x"


def test_secrets_stay_out_of_the_settings_repr() -> None:
    text = repr(load(CC_API_KEY="k-secret", DATABASE_PASSWORD="p-secret", DATABASE_URL="postgresql://u:u-secret@h/d"))
    assert "secret" not in text


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        load().api_key = "other"  # type: ignore[misc]


def test_the_example_file_lists_exactly_the_settings_with_their_defaults() -> None:
    listed = {}
    for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines():
        name, sign, value = line.removeprefix("# ").removeprefix("#").partition("=")
        if sign and name.isupper():
            listed[name] = value
    of_settings = {env_name(item.name) for item in fields(Settings)}
    of_commands = {setting.env for setting in SERVE_SETTINGS.values()}
    assert set(listed) == of_settings | of_commands
    empty = of_commands | {"CC_API_BASE_URL", "CC_API_KEY", "DATABASE_PASSWORD"}
    shown = {name: value for name, value in listed.items() if name not in empty}
    assert load(**shown) == load()

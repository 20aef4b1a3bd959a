"""Settings: typed, frozen, and read in one place.

Each value comes from, first wins: an argument, the process environment, `.env` in the working directory, the default
below. The names are the brief's own. The dlt source reads the API part from `.dlt/*.toml` and dlt's environment names
too (`[sources.clinical_conductor]`), see `source.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from clinical_conductor.errors import ConfigurationError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CHANNELS = {
    "alert_smtp_url": ("smtp", "smtps"),
    "alert_slack_webhook": ("http", "https"),
    "alert_ping_url": ("http", "https"),
}
"""How the addresses of alerts may begin, by field."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where one field comes from and what it means; docs/configuration.md is written from these."""

    env: str
    help: str
    secret: bool = False


def _setting(env: str, help: str, default: Any, *, secret: bool = False) -> Any:
    """A dataclass field that carries its environment name and meaning; a secret one stays out of repr()."""
    return field(default=default, repr=not secret, metadata={"setting": Setting(env, help, secret)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a run needs to know. Build one with `load_settings()`."""

    api_base_url: str = _setting(
        "CC_API_BASE_URL", "Base URL of the instance, such as https://ccs.example.com/CCSWEB", ""
    )
    api_key: str = _setting("CC_API_KEY", "The instance's API key", "", secret=True)
    api_key_header: str = _setting(
        "CC_API_KEY_HEADER", "Header the key travels in (some instances want CCAPIKey)", "X-ApiKey"
    )
    api_rate_limit: float = _setting(
        "CC_API_RATE_LIMIT", "Requests per second over all threads and retries; 0 = no limit", 10.0
    )
    batch_size: int = _setting("ETL_BATCH_SIZE", "Records per request ($top), at most 1000", 1000)
    max_retries: int = _setting(
        "ETL_MAX_RETRIES", "Retries of one request, or of one job, after a transient failure", 3
    )
    retry_delay_seconds: float = _setting(
        "ETL_RETRY_DELAY_SECONDS", "First wait before a retry; doubles with each one", 5.0
    )
    parallel_jobs: int = _setting("ETL_PARALLEL_JOBS", "Jobs at once", 5)
    timeout_seconds: float = _setting("ETL_TIMEOUT_SECONDS", "Longest wait for one HTTP read, in seconds", 300.0)
    database_url: str = _setting("DATABASE_URL", "PostgreSQL URL; outranks the DATABASE_* parts", "", secret=True)
    database_host: str = _setting(
        "DATABASE_HOST", "PostgreSQL host; nothing here and no DATABASE_URL = an embedded PostgreSQL", ""
    )
    database_port: int = _setting("DATABASE_PORT", "PostgreSQL port", 5432)
    database_name: str = _setting("DATABASE_NAME", "Database name", "trialsync")
    database_user: str = _setting("DATABASE_USER", "Database user", "trialsync")
    database_password: str = _setting("DATABASE_PASSWORD", "Database password", "", secret=True)
    log_level: str = _setting("LOG_LEVEL", "DEBUG, INFO, WARNING or ERROR", "INFO")
    log_file: str = _setting("LOG_FILE", "File the log goes to besides standard error", "")
    enable_metrics: bool = _setting("ENABLE_METRICS", "Whether `serve` offers Prometheus metrics", True)
    metrics_port: int = _setting("METRICS_PORT", "Port of the Prometheus metrics", 9090)
    alert_email: str = _setting("ALERT_EMAIL", "Address that is told when something is wrong", "")
    alert_smtp_url: str = _setting(
        "ALERT_SMTP_URL",
        "Mail server for ALERT_EMAIL, such as smtps://user:password@mail.example.com:465",
        "",
        secret=True,
    )
    alert_slack_webhook: str = _setting("ALERT_SLACK_WEBHOOK", "Slack's incoming-webhook address", "", secret=True)
    alert_ping_url: str = _setting(
        "ALERT_PING_URL",
        "Dead-man switch: pinged while the last night is good, with /fail added when it is not",
        "",
        secret=True,
    )
    work_dir: Path = _setting(
        "TRIALSYNC_HOME", "Directory of the embedded PostgreSQL and of short-lived work files", Path(".trialsync")
    )
    jobs_file: Path = _setting("TRIALSYNC_JOBS", "YAML file with per-job settings", Path("config/jobs.yaml"))

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each with the name the user set.

        Raises:
            ConfigurationError: a value is out of range, an alert's address is none, or the base URL is not https and
                not on loopback.
        """
        if not 1 <= self.batch_size <= 1000:
            raise ConfigurationError(
                f"ETL_BATCH_SIZE is {self.batch_size}: it must be between 1 and 1000 (the API's maximum)."
            )
        if self.parallel_jobs < 1:
            raise ConfigurationError(f"ETL_PARALLEL_JOBS is {self.parallel_jobs}: it must be 1 or more.")
        for name in ("max_retries", "retry_delay_seconds", "api_rate_limit"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{env_name(name)} is {getattr(self, name)}: it must not be negative.")
        for name in ("database_port", "metrics_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ConfigurationError(f"{env_name(name)} is {getattr(self, name)}: a port is between 0 and 65535.")
        if self.timeout_seconds <= 0:
            raise ConfigurationError(f"ETL_TIMEOUT_SECONDS is {self.timeout_seconds}: it must be more than 0.")
        if self.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ConfigurationError(f"LOG_LEVEL is {self.log_level!r}: use DEBUG, INFO, WARNING or ERROR.")
        for name, schemes in _CHANNELS.items():
            parts = urlsplit(getattr(self, name))
            if getattr(self, name) and (parts.scheme not in schemes or not parts.hostname):
                wanted = " or ".join(f"{scheme}://" for scheme in schemes)
                raise ConfigurationError(f"{env_name(name)} is not an address that begins with {wanted}.")
        if self.api_base_url:
            check_base_url(self.api_base_url)

    @property
    def alert_channels(self) -> tuple[str, ...]:
        """By what somebody is told when something is wrong."""
        found = {
            "e-mail": self.alert_email and self.alert_smtp_url,
            "Slack": self.alert_slack_webhook,
            "ping": self.alert_ping_url,
        }
        return tuple(name for name, value in found.items() if value)

    @property
    def database(self) -> str | None:
        """The PostgreSQL URL that is configured, or None for the embedded one."""
        if self.database_url:
            return self.database_url
        if not self.database_host:
            return None
        login = quote(self.database_user, safe="")
        if self.database_password:
            login += ":" + quote(self.database_password, safe="")
        host = f"[{self.database_host}]" if ":" in self.database_host else self.database_host
        return f"postgresql://{login}@{host}:{self.database_port}/{quote(self.database_name, safe='')}"


def check_base_url(url: str) -> None:
    """Refuse a base URL that would send the key in the clear or cannot be one.

    Raises:
        ConfigurationError: not http(s), no host, http to anything but this machine, a query or credentials inside.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            "CC_API_BASE_URL is not a web address: it should look like https://ccs.example.com/CCSWEB."
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(
            "CC_API_BASE_URL must hold no user, password, query or fragment: the key goes into CC_API_KEY."
        )
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ConfigurationError(
            f"CC_API_BASE_URL is http://{parts.hostname}…: the key and the patients' data would travel in "
            "the clear. Use https."
        )


def env_name(field_name: str) -> str:
    """The environment variable of a field of Settings."""
    setting: Setting = Settings.__dataclass_fields__[field_name].metadata["setting"]
    return setting.env


def read_environment(
    environ: Mapping[str, str] | None = None, *, dotenv: Path | None = Path(".env")
) -> dict[str, str | None]:
    """The process environment, and below it the lines of `.env`.

    Args:
        environ: Stands in for the process environment.
        dotenv: File of NAME=value lines to read besides; None for none.
    """
    given: dict[str, str | None] = {}
    if dotenv is not None and dotenv.is_file():
        from dotenv import dotenv_values

        given.update(dotenv_values(dotenv))
    given.update(os.environ if environ is None else environ)
    return given


def load_settings(
    environ: Mapping[str, str] | None = None, *, dotenv: Path | None = Path(".env"), **overrides: Any
) -> Settings:
    """Settings from arguments, the environment and `.env`, in that order of rank.

    Args:
        environ: Stands in for the process environment.
        dotenv: File of NAME=value lines to read besides; None for none.
        overrides: Fields of Settings that win over everything; None means "not given".

    Raises:
        ConfigurationError: a value cannot be read or is out of range; the message names the variable.
    """
    given = read_environment(environ, dotenv=dotenv)
    values: dict[str, Any] = {}
    for item in fields(Settings):
        setting: Setting = item.metadata["setting"]
        text = given.get(setting.env)
        if text is not None and text.strip() != "":
            values[item.name] = _read(setting.env, text.strip(), type(item.default))
    if "jobs_file" in values and not values["jobs_file"].is_file():
        # Only the default may be absent: without the file that was named, schedules and limits would silently be gone.
        raise ConfigurationError(f"TRIALSYNC_JOBS is {values['jobs_file']}: there is no such file.")
    values.update({name: value for name, value in overrides.items() if value is not None})
    return Settings(**values)


def _read(env: str, text: str, kind: type) -> Any:
    """One value of the environment as the type of the field's default."""
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ConfigurationError(f"{env} is {text!r}: use true or false.")
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigurationError(f"{env} is {text!r}: a number was expected.")
        return number
    return Path(text) if issubclass(kind, Path) else text

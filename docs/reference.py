"""Writes configuration.md, cli.md and python.md from the code: `python docs/reference.py`. A test compares them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

import clinical_conductor
from clinical_conductor import cli
from clinical_conductor.jobs_config import JobConfig
from clinical_conductor.operations_cli import SERVE_SETTINGS
from clinical_conductor.settings import Setting, Settings

DOCS = Path(__file__).parent

GROUPS = {
    "The API": ("CC_",),
    "The database": ("DATABASE_",),
    "Runs": ("ETL_", "TRIALSYNC_HOME", "TRIALSYNC_JOBS"),
    "Logs and metrics": ("LOG_", "ENABLE_METRICS", "METRICS_"),
    "Alerts": ("ALERT_",),
    "`serve`": ("TRIALSYNC_TOKEN",),
}

CONFIGURATION = """# Configuration

Written by `python docs/reference.py` from the code; a test fails when it is out of date.

Each value comes from, first wins: an argument of the command, the environment, `.env` in the working directory, the
default. `.env.example` lists all of them. A secret is masked in every log line.
"""

JOBS = """
## config/jobs.yaml

What a site decides about its jobs. The file seeds the columns of `dw_etl_jobs` that have never been seeded; afterwards
the row wins, so that a job can be changed by SQL or by `trialsync-etl schedule`. A mistake in the file is an error that
names the file and the entry (exit code 2).

```yaml
timezone: Europe/Zurich                      # in which the schedules are meant; UTC by default
defaults: {schedule: "0 2 * * *"}            # hold where a job says nothing
jobs:
  studies: {priority: 10, timeout_seconds: 3600}
  invoices: {enabled: false}
  patient_payments: {depends_on: [invoices]} # besides the parents that the catalog knows
```

| field | default | meaning |
|---|---|---|
"""

JOB_FIELDS = {
    "enabled": "Whether a run of all jobs includes it.",
    "schedule": "Five cron fields, or null: only when it is asked for. Jobs with the same schedule run together.",
    "priority": "Of jobs that could start, the one with the lowest number starts first.",
    "timeout_seconds": "After so long the job commits what it has, owes the rest, and is failed. null = no limit.",
    "depends_on": "Resources that must have succeeded before, besides the parents that the catalog knows.",
}

SCHEDULES = """
## Schedules

A schedule has the five fields of crontab(5): minute, hour, day of month, month, day of week. 0 and 7 are Sunday; when
both days are restricted, either is enough. Times are those on the wall of `timezone`.

- A time that the clock skips in spring runs right after the gap; one that it shows twice in autumn runs once.
- A time that passed while nothing was running is made up for when `serve --schedule` starts, if it is less than six
  hours ago, by the jobs that have not run since.
- A time that comes while a job's last run still goes on, one that is made up for too, is left out for this job.
- The schedules hold for every active instance of `dw_api_credentials` but `demo`, each with a command of its own; see
  [deployment](deployment.md#several-instances).
- Of several `serve --schedule` on one database, one schedules; another takes over when it ends.
"""


COMMANDS = """# Command line

Written by `python docs/reference.py` from the code; a test fails when it is out of date.

Exit code 0: all good. 1: a job or a parent failed, or the API or the database could not be reached. 2: the command or a
setting is wrong.
"""


def configuration() -> str:
    """The text of docs/configuration.md."""
    found: list[tuple[Setting, str]] = []
    for item in fields(Settings):
        default = "" if item.default is MISSING else item.default
        text = (
            str(default).lower()
            if isinstance(default, bool)
            else f"{default:g}"
            if isinstance(default, float)
            else str(default)
        )
        found.append((item.metadata["setting"], text))
    found += [(setting, "") for setting in SERVE_SETTINGS.values()]
    parts = [CONFIGURATION]
    left = {setting.env for setting, _ in found}
    for title, prefixes in GROUPS.items():
        parts.append(f"\n## {title}\n\n| setting | default | meaning |\n|---|---|---|\n")
        for setting, default in found:
            if setting.env in left and setting.env.startswith(prefixes):
                left.discard(setting.env)
                secret = " (secret)" if setting.secret else ""
                parts.append(f"| `{setting.env}` | {f'`{default}`' if default else ''} | {setting.help}{secret} |\n")
    if left:
        raise ValueError(f"no group of docs/reference.py takes {', '.join(sorted(left))}")
    parts.append(JOBS)
    for item in fields(JobConfig):
        if item.name != "resource":
            shown = {True: "true", None: "null", (): "[]"}.get(item.default, item.default)
            parts.append(f"| `{item.name}` | `{shown}` | {JOB_FIELDS[item.name]} |\n")
    parts.append(SCHEDULES)
    return "".join(parts)


def commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command with its full name, those of other modules included."""
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        if name in cli.ROOMS:
            room = typer.Typer(add_completion=False)
            room.command(name)(getattr(import_module(cli.ROOMS[name][0]), f"{name}_command"))
            yield name, typer.main.get_command(room)  # type: ignore[misc]
            continue
        yield name, command
        for inner, sub in getattr(command, "commands", {}).items():
            yield f"{name} {inner}", sub


def command_line() -> str:
    """The text of docs/cli.md."""
    parts = [COMMANDS]
    for name, command in commands():
        text = " ".join((command.help or "").split())
        parts.append(f"\n## trialsync-etl {name}\n\n{text}\n")
        options = [p for p in command.params if p.name not in ("install_completion", "show_completion")]
        if options:
            parts.append("\n| option | meaning |\n|---|---|\n")
        for option in options:
            names = ", ".join(f"`{n}`" for n in (*option.opts, *option.secondary_opts))
            metavar = getattr(option, "metavar", None)
            value = f" {metavar}" if metavar and not getattr(option, "is_flag", False) else ""
            meaning = (getattr(option, "help", None) or "").replace("|", "\\|")
            parts.append(f"| {names}{value} | {meaning} |\n")
    return "".join(parts)


PYTHON = """# From Python

Written by `python docs/reference.py` from the code; a test fails when it is out of date.

All names below are imported from `clinical_conductor`. Settings come from the environment and `.env` where no argument
gives them, see [configuration](configuration.md). Every error is a `TrialSyncError` of `clinical_conductor.errors`,
whose message says what to do; [troubleshooting](troubleshooting.md) lists them.

```python
from clinical_conductor import DataLoader, ETLOrchestrator, TransformationEngine, endpoints, sample

sample("studies", 3)  # a first look at the API
result = ETLOrchestrator().execute_job(2)  # studies, as `trialsync-etl run --job-id 2`
print(result.status, result.records_loaded, result.error_message)
TransformationEngine().load_all_dimensions()
DataLoader().upsert_records("dim_sites_staging", [{"id": 12, "name": "Site 12"}])
```
"""


def python_api() -> str:
    """The text of docs/python.md: every public name with its signature and docstring."""
    parts = [PYTHON]
    for name in clinical_conductor.__all__:
        thing = getattr(clinical_conductor, name)
        parts.append(f"\n## {name}\n\n{_described(name, thing)}")
        if inspect.isclass(thing) and not is_dataclass(thing):
            for method, function in vars(thing).items():
                if not method.startswith("_") and inspect.isfunction(function):
                    parts.append(f"\n### {name}.{method}\n\n{_described(method, function)}")
    return "".join(parts)


def _described(name: str, thing: Any) -> str:
    """A signature, and a docstring with its sections in bold."""
    text = str(inspect.signature(inspect.unwrap(thing))).replace("self, ", "").replace("(self)", "()")
    text = re.sub(r"(?:[a-z_]+\.)+(?=[A-Z])", "", text.replace("'", ""))
    doc = (inspect.getdoc(thing) or "").replace("``", "`")
    doc = re.sub(r"^(Args|Raises|Returns|Yields):$", r"**\1**\n", doc, flags=re.M)
    doc = re.sub(r"^ {4}(?=\S)", "- ", doc, flags=re.M)
    return f"```python\n{name}{text.partition(' -> None')[0]}\n```\n\n{doc}\n"


PAGES = {"configuration.md": configuration, "cli.md": command_line, "python.md": python_api}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")

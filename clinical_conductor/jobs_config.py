"""config/jobs.yaml: what a site decides about its jobs. No database here.

    timezone: Europe/Zurich
    defaults: {schedule: "0 2 * * *", priority: 50}
    jobs:
      studies: {priority: 10, timeout_seconds: 3600}
      invoices: {enabled: false}
      patient_payments: {depends_on: [invoices]}

The file seeds the columns of dw_etl_jobs that are still empty; afterwards the row wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from clinical_conductor.catalog import ENDPOINTS, find_endpoint
from clinical_conductor.cron import check_cron
from clinical_conductor.errors import ConfigurationError

DEFAULT_PRIORITY = 50
_TOP = ("timezone", "defaults", "jobs")
_FIELDS = ("enabled", "schedule", "priority", "timeout_seconds", "depends_on")


@dataclass(frozen=True, slots=True)
class JobConfig:
    """One resource's part of config/jobs.yaml."""

    resource: str
    enabled: bool = True
    schedule: str | None = None
    """Five cron fields, or None: the job runs only when it is asked for."""
    priority: int = DEFAULT_PRIORITY
    """Of jobs that could start, the one with the lowest number starts first."""
    timeout_seconds: int | None = None
    """After so long the job commits what it has, owes the rest, and is failed. None: no limit."""
    depends_on: tuple[str, ...] = ()
    """Resources that must have succeeded before, besides the parents the catalog knows."""


def load_jobs_config(path: Path) -> dict[str, JobConfig]:
    """The jobs of a YAML file by resource; {} when there is no such file.

    Raises:
        ConfigurationError: the file is not as described above; the message names the file and the entry.
    """
    raw = _read(path)
    _zone(path, raw)
    defaults = _fields(path, "defaults", raw.get("defaults") or {})
    entries = raw.get("jobs") or {}
    if not isinstance(entries, Mapping):
        raise ConfigurationError(f"{path}: jobs must map a resource to its settings.")
    jobs: dict[str, JobConfig] = {}
    for name, entry in entries.items():
        try:
            resource = find_endpoint(str(name)).resource
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: jobs: {error}") from None
        if resource in jobs:
            raise ConfigurationError(f"{path}: jobs: {name}: {resource} is there already. Keep one of the two entries.")
        jobs[resource] = JobConfig(resource=resource, **{**defaults, **_fields(path, resource, entry or {})})
    _check_dependencies(path, jobs)
    return jobs


def load_timezone(path: Path) -> tzinfo:
    """The time zone of the schedules in a YAML file; UTC when it names none.

    Raises:
        ConfigurationError: there is no such zone.
    """
    return _zone(path, _read(path))


def _zone(path: Path, raw: Mapping[str, Any]) -> tzinfo:
    """The zone that the file names."""
    name = raw.get("timezone") or "UTC"
    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(f"{path}: timezone {name!r} is not known; use a name like Europe/Zurich.") from None


def _read(path: Path) -> dict[str, Any]:
    """The YAML file as a mapping with known top-level names."""
    if not path.is_file():
        return {}
    try:
        # Written in C where PyYAML was built with it: ten times as fast, and the dashboard waits for it.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(path.read_text(encoding="utf-8"))
        try:
            tree = loader.get_single_node()
            _check_twice(path, tree)
            raw = loader.construct_document(tree) if tree is not None else None
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"{path} is not valid YAML{where}.") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{path} must hold {', '.join(_TOP)}.")
    _check_names(f"{path}", raw, _TOP)
    return raw


def _check_twice(path: Path, node: Any) -> None:
    """Refuse a name that one mapping has twice: YAML's last one would win in silence."""
    if not isinstance(getattr(node, "value", None), list):
        return
    seen: set[str] = set()
    for entry in node.value:
        name, below = entry if isinstance(entry, tuple) else (None, entry)
        if name is not None and isinstance(name.value, str):
            if name.value in seen:
                line = name.start_mark.line + 1
                raise ConfigurationError(f"{path}, line {line}: {name.value} is there twice. Keep one of the two.")
            seen.add(name.value)
        _check_twice(path, below)


def _fields(path: Path, entry: str, raw: object) -> dict[str, Any]:
    """One entry's fields, each checked."""
    where = f"{path}: {entry}"
    if not isinstance(raw, Mapping):
        raise ConfigurationError(f"{where} must hold {', '.join(_FIELDS)}.")
    _check_names(where, raw, _FIELDS)
    found: dict[str, Any] = dict(raw)
    if not isinstance(found.get("enabled", True), bool):
        raise ConfigurationError(f"{where}: enabled must be true or false.")
    for name, least in (("priority", 0), ("timeout_seconds", 1)):
        value = found.get(name, least)
        if value is None and name == "timeout_seconds":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise ConfigurationError(f"{where}: {name} must be a whole number, {least} or more.")
    if found.get("schedule") is not None:
        try:
            found["schedule"] = check_cron(str(found["schedule"]))
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: schedule {error}") from None
    if "depends_on" in found:
        value = found["depends_on"] or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ConfigurationError(f"{where}: depends_on must be a list of resources.")
        found["depends_on"] = tuple(value)
    return found


def _check_names(where: str, raw: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    """Refuse a name that is not known, suggesting the nearest."""
    for name in raw:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
            raise ConfigurationError(f"{where}: {str(name)!r} is not known; {hint}")


def _check_dependencies(path: Path, jobs: Mapping[str, JobConfig]) -> None:
    """Refuse a dependency that does not exist, or that waits for itself."""
    waits: dict[str, set[str]] = {}
    for name, row in ENDPOINTS.items():
        waits[name] = {row.parent} if row.parent else set()
    for name, job in jobs.items():
        for other in job.depends_on:
            if other not in ENDPOINTS:
                raise ConfigurationError(f"{path}: {name}: depends_on: there is no resource {other!r}.")
            waits[name].add(other)
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            circle = " → ".join((*trail[trail.index(name) :], name))
            raise ConfigurationError(f"{path}: depends_on goes in a circle: {circle}.")
        if name not in done:
            for other in waits[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in waits:
        visit(name, ())

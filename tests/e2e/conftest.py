"""What the end-to-end tests share: the command line as a process of its own, in an empty directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked e2e."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@dataclass
class CommandLine:
    """`trialsync-etl` in a directory of its own, with nothing from this process's environment configured."""

    cwd: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        """The environment of a call: this process's own without settings, then `settings`."""
        ours = ("CC_", "ETL_", "DATABASE_", "TRIALSYNC_", "LOG_", "ENABLE_", "METRICS_", "ALERT_", "PG")
        plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**plain, "CI": "1", "COLUMNS": "80", "TRIALSYNC_HOME": str(self.cwd / ".trialsync"), **self.settings}

    def command(self, *args: str) -> list[str]:
        """The words of a call: the checkout's script, with this interpreter."""
        return [sys.executable, str(ROOT / "pipelines/run.py"), *args]

    def __call__(self, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run to the end; output and exit code are the caller's to judge."""
        return subprocess.run(
            self.command(*args),
            cwd=self.cwd,
            env={**self.env, **settings},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start and return at once."""
        return subprocess.Popen(
            self.command(*args),
            cwd=self.cwd,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self, *args: str, code: int = 0, **settings: str) -> dict[str, dict[str, Any]]:
        """`run` with a results file: its entries by resource."""
        path = self.cwd / "results.json"
        path.unlink(missing_ok=True)
        done = self("run", *args, "--results", str(path), **settings)
        assert done.returncode == code, done.stdout + done.stderr
        return {job["resource"]: job for job in json.loads(path.read_text(encoding="utf-8"))["jobs"]}


@pytest.fixture
def etl(tmp_path: Path) -> CommandLine:
    """The command line with neither an API nor a database configured."""
    return CommandLine(tmp_path)


@pytest.fixture
def configured(etl: CommandLine) -> Callable[[Any, str], CommandLine]:
    """The command line pointed at a simulator and a database."""

    def point(simulator: Any, url: str, **settings: str) -> CommandLine:
        etl.settings = {
            "CC_API_BASE_URL": simulator.base_url,
            "CC_API_KEY": "demo-key",
            "CC_API_RATE_LIMIT": "0",
            "ETL_RETRY_DELAY_SECONDS": "0.01",
            "DATABASE_URL": url,
            **settings,
        }
        return etl

    return point

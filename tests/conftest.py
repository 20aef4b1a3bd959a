"""What every test may ask for: a real PostgreSQL and a simulated Clinical Conductor. No test leaves this machine."""

from __future__ import annotations

import os

os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.simulator", "tests.fixtures.pipeline"]

"""The demo: a simulated instance and the embedded PostgreSQL, so that everything runs with nothing configured."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any, get_args

from clinical_conductor import console
from clinical_conductor.context import RunOptions
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.execution import run_and_report
from clinical_conductor.settings import Settings, load_settings
from clinical_conductor.simulator import Simulator, SimulatorProcess
from clinical_conductor.simulator.api import Envelope
from clinical_conductor.simulator.rows import Ids

INSTANCE = "demo"
"""Name of the simulated instance in dw_api_credentials: its rows stay apart from those of a real one."""

NEXT_STEPS = """
What next:
  trialsync-etl demo                  again: nothing is inserted and nothing is updated
  trialsync-etl status                the latest run of every job
  psql "$(trialsync-etl db url)"      look at the rows: select data from dim_studies_staging limit 3;
  trialsync-etl db stop               stop the embedded PostgreSQL
A real instance: set CC_API_BASE_URL and CC_API_KEY (see README.md), then: trialsync-etl run --dry-run
"""


def run_demo(settings: Settings, *, scale: float, seed: int, results: Path | None = None) -> int:
    """Load every active job from a simulator into the embedded PostgreSQL; a configured one is never touched.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: the embedded PostgreSQL is not installed, or the results file cannot be written.
    """
    with SimulatorProcess(scale, seed) as simulator:
        console.say(f"A simulated Clinical Conductor answers at {simulator.base_url}")
        own = load_settings(
            {},
            dotenv=None,
            api_base_url=simulator.base_url,
            api_key=simulator.api_key,
            api_rate_limit=0.0,
            parallel_jobs=settings.parallel_jobs,
            log_level=os.environ.get("LOG_LEVEL", "WARNING"),
            log_file=settings.log_file,
            work_dir=settings.work_dir,
        )
        # A demo of another scale or seed is another instance in the place of this one, so its rows may all go.
        options = RunOptions(instance=INSTANCE, allow_mass_delete=True)
        code = run_and_report(own, (), (), options, results=results)
    if code == 0:
        console.say(NEXT_STEPS)
    return code


def simulate_until_stopped(*, port: int, scale: float, seed: int, **switches: Any) -> None:
    """Serve a simulated instance until SIGINT or SIGTERM.

    Raises:
        ConfigurationError: a switch has a value the simulator does not know, or the port is taken.
    """
    for name, allowed in (("envelope", Envelope), ("ids", Ids)):
        if switches.get(name) not in get_args(allowed):
            raise ConfigurationError(f"--{name} {switches.get(name)}: use one of {', '.join(get_args(allowed))}.")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        simulator = Simulator(scale, seed, port, **switches)
    except OSError:
        raise ConfigurationError(f"--port {port} is taken or not allowed. --port 0 takes a free one.") from None
    with simulator:
        print(simulator.base_url, flush=True)  # noqa: T201 (the one line a script wants)
        console.say(
            "Serving a simulated Clinical Conductor; Ctrl-C ends it. In another shell:\n"
            f"  export CC_API_BASE_URL={simulator.base_url} CC_API_KEY={simulator.api_key}"
        )
        stop.wait()

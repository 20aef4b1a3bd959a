"""TrialSync: Clinical Conductor as a dlt source, and its way into a PostgreSQL warehouse.

    from clinical_conductor import clinical_conductor      the dlt source, for notebooks and any dlt destination
    from clinical_conductor import endpoints, sample       what there is, and a first look at it
    from clinical_conductor import ETLOrchestrator         jobs, run as the command line runs them
    from clinical_conductor import DataLoader              records of your own into staging

The rooms, in the direction data flows:

    The API      catalog      one row per endpoint               client       HTTP: the key, retries, errors
                 pacing       the rate, over all threads         envelopes    an answer to its records
                 records      records to keys and hashes         odata        options, and where the next page is
                 enquiry      which path and options it takes    paging       one listing, no row lost or repeated
                 overlap      what two pages share               source       the dlt source
                 scripting    the API by path

    Staging      reading      pages and fan-outs, read ahead     chunk        what waits to be committed
                 staging      what differs, landed and merged    landing      dlt's part of that
                 deletion     what is gone, within limits        parents      whom to ask for children
                 syncing      one table brought up to date       job          one job from lock to closed run
                 orchestrator order and parallelism              context      what the jobs of a command share
                 runs         the ledger of runs                 findings     what a run leaves to the next one
                 planning     what a run would ask for           selection    which jobs a command is about
                 execution    a command around its jobs          etl          the same from Python
                 loader       records of your own into staging

    Database     database     connections and their errors       migrations   how sql/ gets into it
                 embedded     a PostgreSQL from a wheel          instances    whose rows they are
                 warehouse    silver and gold procedures         quality      the data quality checks

    Operations   ledger       what the ledger holds              monitoring   reads it
                 health       whether that is well               remedies     what mends it
                 dashboard    drawn with charts                  server       dashboard, API and health over HTTP
                 markup       what its pages are built of        charts       small drawings in SVG
                 metrics      for Prometheus                     alerts       what is told, once per trouble
                 channels     e-mail, Slack and a ping
                 schedule     the loop of `serve`                cron         what a cron expression means
                 jobs_config  config/jobs.yaml                   logs         no secret and no record

    Doctor       doctor       the command                        diagnosis    what is wrong, and what to do
                 probing      what the instance answers          openapi      what its own document says
                 checkup      the database's part

    Around       cli          with operations_cli, warehouse_cli console      what a person sees
                 settings     read in one place                  errors       grouped by how one recovers
                 processes    whether one still lives            demo         with the simulator, a made-up API

Names are imported when first used, so that `import clinical_conductor` costs nothing and reading the API needs no
PostgreSQL driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clinical_conductor.context import RunOptions
    from clinical_conductor.etl import ETLOrchestrator, ETLRunResult, JobStatus
    from clinical_conductor.loader import DataLoader
    from clinical_conductor.scripting import ClinicalConductorClient
    from clinical_conductor.source import clinical_conductor, endpoints, sample
    from clinical_conductor.warehouse import TransformationEngine

__version__ = "0.1.0"

_HOME = {
    "clinical_conductor": "source",
    "endpoints": "source",
    "sample": "source",
    "ClinicalConductorClient": "scripting",
    "DataLoader": "loader",
    "ETLOrchestrator": "etl",
    "ETLRunResult": "etl",
    "JobStatus": "etl",
    "RunOptions": "context",
    "TransformationEngine": "warehouse",
}

__all__ = [
    "ClinicalConductorClient",
    "DataLoader",
    "ETLOrchestrator",
    "ETLRunResult",
    "JobStatus",
    "RunOptions",
    "TransformationEngine",
    "clinical_conductor",
    "endpoints",
    "sample",
]


def __getattr__(name: str) -> Any:
    """Imports a public name's home when the name is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

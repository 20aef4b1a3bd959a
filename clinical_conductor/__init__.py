"""TrialSync: Clinical Conductor as a dlt source, and its way into a PostgreSQL warehouse.

    from clinical_conductor import clinical_conductor      the dlt source, for notebooks and any dlt destination
    from clinical_conductor import endpoints, sample       what there is, and a first look at it
    from clinical_conductor import ETLOrchestrator         jobs, run as the command line runs them
    from clinical_conductor import DataLoader              records of your own into staging

The rooms, in the direction data flows:

    catalog     ENDPOINTS: one row per endpoint
    client      HTTP: pacing, retries, errors           enquiry    which path and which options an endpoint takes
    records     bytes to records, keys and hashes       paging     one listing, no row lost or repeated
    source      the dlt source
    reading     pages and fan-outs, read ahead          staging    what differs, landed by dlt, merged
    chunk       what waits to be committed              deletion   what is gone upstream, within limits
    landing     dlt's part of staging                   parents    whom to ask for children
    syncing     by cursor, in full, bulk, by parent     job        one job from lock to closed run
    orchestrator  order and parallelism                 runs       the ledger
    warehouse   silver and gold procedures
    monitoring  what the ledger says                    dashboard, server, alerts, schedule   what people see of it
    doctor      what is wrong and what to do: the API by probing and openapi, the database by checkup

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
    from clinical_conductor.source import ClinicalConductorClient, clinical_conductor, endpoints, sample
    from clinical_conductor.warehouse import TransformationEngine

__version__ = "0.1.0"

_HOME = {
    "clinical_conductor": "source",
    "endpoints": "source",
    "sample": "source",
    "ClinicalConductorClient": "source",
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

"""Listings against a simulated instance: every endpoint, every envelope, and what goes wrong in life."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from clinical_conductor.catalog import ENDPOINTS, Endpoint, split_key
from clinical_conductor.client import Client
from clinical_conductor.errors import EndpointNotFound, PagingBroken, TrialSyncError, Unauthorised
from clinical_conductor.odata import Capabilities
from clinical_conductor.paging import Listing
from clinical_conductor.settings import Settings
from clinical_conductor.simulator import Simulator

Factory = Callable[..., Simulator]


def client(simulator: Simulator, **given: Any) -> Client:
    values = {"api_key": simulator.api_key, "api_rate_limit": 0.0, "retry_delay_seconds": 0.001, **given}
    return Client(Settings(api_base_url=simulator.base_url, **values))


def read(listing: Listing) -> Counter[str]:
    """The records served, kept and set aside."""
    served: Counter[str] = Counter()
    for page in listing:
        served.update(bytes(raw).decode() for raw in page.records)
        served.update(item.raw for item in page.rejected)
    return served


def truth(simulator: Simulator, row: Endpoint) -> dict[str, Counter[str]]:
    """Per parent, what the endpoint serves; under "" for a listing."""
    records: dict[str, Counter[str]] = defaultdict(Counter)
    for parent, record in simulator.truth(row.resource):
        records[parent if row.parent else ""][bytes(record).decode("utf-8", "backslashreplace")] += 1
    return records


def check(simulator: Simulator, *resources: str, page_size: int = 1000, bulk: bool = False) -> None:
    """Whatever is in the instance is served by these endpoints, once, and proven complete."""
    reader = client(simulator)
    for name in resources or [row.resource for row in ENDPOINTS.values() if row.active]:
        row, found = ENDPOINTS[name], Capabilities()
        records = truth(simulator, row)
        if bulk:
            records = {"": sum(records.values(), Counter())}
        for parent in list(records)[:3] or ([] if row.parent else [""]):
            listing = Listing(reader, row, split_key(parent), capabilities=found, page_size=page_size, bulk=bulk)
            assert read(listing) == records[parent], (name, parent)
            assert listing.complete, (name, parent, found)
    reader.close()


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"envelope": "value", "next_links": "relative"},
        {"envelope": "items-lower", "next_links": "empty"},
        {"envelope": "array"},
        {"next_links": "none"},
        {"odata": False},
        {"modified_date": False},
        {"ids": "guid"},
        {"key_header": "CCAPIKey"},
    ],
    ids=str,
)
def test_every_endpoint_is_read_whole(simulator_factory: Factory, switches: dict[str, Any]) -> None:
    simulator = simulator_factory(**switches)
    header = switches.get("key_header")
    if header:
        with pytest.raises(Unauthorised, match=header):
            client(simulator).fetch("/api/v1/sites")
        assert client(simulator, api_key_header=header).fetch("/api/v1/sites").status == 200
        return
    check(simulator)


def test_what_the_specification_lacks_is_named(simulator_factory: Factory) -> None:
    simulator = simulator_factory(paths="spec")
    reader = client(simulator)
    missing = {}
    for row in ENDPOINTS.values():
        if row.active and row.parent is None:
            try:
                list(Listing(reader, row, capabilities=Capabilities()))
            except EndpointNotFound as error:
                missing[row] = str(error)
    assert {row.job_id for row in missing} == {167, 168, 169, 170, 171, 173, 176}
    assert all(row.path in message for row, message in missing.items())
    check(simulator, "visit_elements", "patient_visit_stipends", "system_study_statuses")  # by their alternate paths


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("throttle", {"count": 3, "seconds": 0}),
        ("error", {"count": 3, "status": 503}),
        ("ignore-paging", {}),
        ("ignore-filter", {}),
        ("ignore-orderby", {}),
        ("reject-filter", {}),
        ("reject-orderby", {}),
        ("reject-count", {}),
        ("reject-top", {}),
        ("cap", {"limit": 7}),
        ("reset", {"at": 0.5, "count": 3}),
        ("truncate", {"at": 0.5, "count": 3}),
        ("html", {"count": 3}),
        ("duplicate-page", {"count": 1, "after": 1}),
        ("no-id", {"every": 5}),
        ("null-id", {"every": 5}),
        ("nul", {"every": 5}),
        ("surrogate", {"every": 5}),
        ("invalid-utf8", {"every": 5}),
        ("big-integer", {"every": 5}),
        ("non-ascii", {"every": 5}),
        ("duplicate-ids", {"every": 5}),
        ("big-ids", {"every": 5}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("envelope", ["spec", "array"])
def test_what_goes_wrong_in_life(simulator_factory: Factory, envelope: str, kind: str, options: dict[str, Any]) -> None:
    simulator = simulator_factory(scale=0.0005, envelope=envelope)
    for resource in ("patients", "subjects", "subject_statuses"):
        simulator.fault(kind, resource=resource, **options)
    check(simulator, "patients", "subjects", "subject_statuses", page_size=30)


def test_an_endpoint_that_ignores_skip_and_has_no_keys(simulator_factory: Factory) -> None:
    """Either all of it, or an error, or not called complete; never a part that passes for the whole."""
    for envelope in ("spec", "array"):
        simulator = simulator_factory(scale=0.001, envelope=envelope)
        simulator.fault("ignore-skip", resource="subject_statuses")
        listing = Listing(client(simulator), ENDPOINTS["subject_statuses"], capabilities=Capabilities(), page_size=30)
        total = sum(1 for _ in simulator.truth("subject_statuses"))
        try:
            served = read(listing)
        except PagingBroken:
            continue
        assert served.total() == total or not listing.complete


def test_rows_that_vanish_between_pages(simulator_factory: Factory) -> None:
    simulator = simulator_factory(scale=0.001)
    simulator.fault("delete-between-pages", resource="patients", count=2)
    before = truth(simulator, ENDPOINTS["patients"])[""]
    served = read(Listing(client(simulator), ENDPOINTS["patients"], capabilities=Capabilities(), page_size=30))
    after = truth(simulator, ENDPOINTS["patients"])[""]
    assert after.total() == before.total() - 2
    assert after <= served <= before


def test_bulk_routes_name_the_parents(simulator: Simulator) -> None:
    bulk = [row for row in ENDPOINTS.values() if row.bulk]
    assert bulk
    check(simulator, *(row.resource for row in bulk), bulk=True)
    row = ENDPOINTS["subjects"]
    pages = list(Listing(client(simulator), row, capabilities=Capabilities(), bulk=True))
    named = Counter(parent for page in pages for parent in page.parents or [])
    assert named == Counter(parent for parent, _ in simulator.truth("subjects"))


def test_a_listing_that_names_parents(simulator: Simulator) -> None:
    [page] = Listing(client(simulator), ENDPOINTS["patient_visits"], capabilities=Capabilities())
    assert Counter(page.parents) == Counter(parent for parent, _ in simulator.truth("patient_visits"))


def test_the_servers_clock_and_cursor(simulator: Simulator) -> None:
    listing = Listing(client(simulator), ENDPOINTS["patients"], capabilities=Capabilities())
    read(listing)
    assert listing.server_time == simulator.now.replace(microsecond=0)
    assert listing.cursor_high is not None
    assert listing.cursor_high <= simulator.now


def test_no_error_carries_data(simulator: Simulator) -> None:
    """Whatever an endpoint answers, neither the key nor a query nor a body gets into a message."""
    reader = client(simulator, api_key=simulator.api_key, max_retries=1)
    for kind, options in (
        ("error", {}),
        ("error", {"status": 400}),
        ("html", {}),
        ("truncate", {"at": 0.5}),
        ("reset", {"at": 0.5}),
        ("unknown-envelope", {}),
        ("throttle", {"seconds": 0}),
        ("unauthorised", {}),
        ("not-implemented", {}),
    ):
        simulator.fault(kind, resource="patients", **options)
        with pytest.raises(TrialSyncError) as caught:
            read(Listing(reader, ENDPOINTS["patients"], capabilities=Capabilities(), filters="lastName eq 'Doe'"))
        simulator.faults.clear(simulator.api)
        message = str(caught.value)
        assert "patients" in message
        assert simulator.api_key not in message
        assert "Doe" not in message
        assert "filter" not in message

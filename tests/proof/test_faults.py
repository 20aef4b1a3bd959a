"""Everything that goes wrong in life, one test each: the rows are right, or the run says that it failed.

"Right" means that what is staged and what stands in quarantine is, together, exactly what the API serves. And whatever
is said about it tells nothing of a record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from clinical_conductor.context import JobResult
from clinical_conductor.simulator import Simulator
from tests.fixtures.pipeline import Pipeline

VISITS = "patient_visits"
PATIENTS = "patients"  # a bare array: without a count, without links

Make = Callable[..., Pipeline]


def texts(value: Any) -> Iterator[str]:
    """All longer texts in a JSON value."""
    if isinstance(value, str):
        if len(value) > 7 and not value.startswith("20"):
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def quarantine(pipeline: Pipeline) -> list[tuple[str, str]]:
    """Raw text and reason of what was set aside."""
    return pipeline.query(
        "select raw, reason from dw_etl_rejected_records where source_instance_id = %s order by id",
        pipeline.instance_id(),
    )


def is_right(pipeline: Pipeline, simulator: Simulator, resource: str, result: JobResult) -> None:
    """Staging and quarantine together are what is served."""
    assert result.status == "success", result.error
    set_aside = [raw for raw, _ in quarantine(pipeline)]
    served = [
        (parent, record)
        for parent, record in simulator.truth(resource)
        if record.decode("utf-8", "backslashreplace") not in set_aside
    ]
    difference = pipeline.difference(resource, served)
    assert not difference, difference
    assert pipeline.count(resource) + len(set_aside) == len(list(simulator.truth(resource)))
    assert result.rejected == len(set_aside)
    assert pipeline.unsound() == []
    assert pipeline.left_over() == []


def says_that_it_failed(pipeline: Pipeline, simulator: Simulator, resource: str, result: JobResult, kind: str) -> None:
    """The run failed, in the ledger too, and tells nothing of a record."""
    assert (result.status, result.error_type) == ("failed", kind), result.error
    run = pipeline.ledger(resource)
    assert (run["run_status"], run["error_type"], run["error_message"]) == ("failed", kind, result.error)
    assert result.error is not None
    assert simulator.api_key not in result.error
    found = {text for _, record in simulator.truth(resource) for text in texts(json.loads(record))}
    assert [text for text in found if text in result.error] == []
    assert pipeline.left_over() == []


PASSING = {
    "429 with Retry-After in seconds": ("throttle", {"count": 2, "seconds": 0.2}),
    "429 with Retry-After as a date": ("throttle-date", {"count": 1, "seconds": 1}),
    "429 at every tenth request": ("throttle", {"probability": 0.1, "seconds": 0.01}),
    "500 three times in a row": ("error", {"count": 3}),
    "503 with Retry-After": ("error", {"count": 2, "status": 503, "seconds": 0.1}),
    "503 without": ("error", {"count": 1, "status": 503}),
    "502": ("error", {"count": 1, "status": 502}),
    "504": ("error", {"count": 1, "status": 504}),
    "408": ("error", {"count": 1, "status": 408}),
    "connection reset before the body": ("reset", {"count": 1, "at": 0.0}),
    "connection reset in the middle of the body": ("reset", {"count": 2, "at": 0.5}),
    "connection reset at the very end": ("reset", {"count": 1, "at": 0.99}),
    "truncated JSON with status 200": ("truncate", {"count": 2}),
    "JSON without its last bytes": ("truncate", {"count": 1, "at": 0.9999}),
    "a login page with status 200": ("html", {"count": 1}),
    "a page served twice": ("duplicate-page", {"count": 1}),
    "a body that comes slower than the timeout": ("slow", {"count": 1, "seconds": 0.4, "pieces": 3}),
}


@pytest.mark.parametrize(
    ("fault", "resource"),
    [
        *((fault, VISITS) for fault in PASSING),
        ("truncated JSON with status 200", PATIENTS),
        ("a page served twice", PATIENTS),
    ],
)
def test_passing_trouble_is_overcome(simulator: Simulator, new_instance: Make, fault: str, resource: str) -> None:
    kind, options = PASSING[fault]
    pipeline = new_instance(simulator, batch_size=30 if resource == VISITS else 8, timeout_seconds=0.25)
    injected = simulator.fault(kind, resource=resource, after=1, **options)
    result = pipeline.one(resource)
    assert injected.fired
    is_right(pipeline, simulator, resource, result)
    if kind != "duplicate-page":
        # At least: on a busy machine an answer may also be late.
        assert result.retries >= injected.fired


RECORDS = {
    "records without id": ("no-id", "id"),
    "records with id null": ("null-id", "id"),
    "\\u0000 in a text": ("nul", "\\u0000"),
    "a lone surrogate": ("surrogate", "surrogate"),
    "a lone surrogate, raw": ("raw-surrogate", "UTF-8"),
    "bytes that are not UTF-8": ("invalid-utf8", "UTF-8"),
    "1e400000": ("overflow", "SQLSTATE"),
}


@pytest.mark.parametrize("resource", [VISITS, PATIENTS])
@pytest.mark.parametrize("fault", RECORDS)
def test_a_record_in_trouble_is_set_aside_and_the_rest_loads(
    simulator: Simulator, new_instance: Make, fault: str, resource: str
) -> None:
    kind, why = RECORDS[fault]
    pipeline = new_instance(simulator, batch_size=8)
    injected = simulator.fault(kind, resource=resource, every=7)
    result = pipeline.one(resource)
    is_right(pipeline, simulator, resource, result)
    reasons = [reason for _, reason in quarantine(pipeline)]
    assert len(reasons) == injected.fired
    assert all(why in reason for reason in reasons), reasons[:1]
    again = pipeline.one(resource)
    is_right(pipeline, simulator, resource, again)
    assert (again.inserted, again.updated, again.deleted) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["big-integer", "non-ascii", "big-ids", "big-record"])
def test_a_strange_record_is_staged_as_it_is(simulator: Simulator, new_instance: Make, kind: str) -> None:
    options = {"every": 90, "size": 4_000_000} if kind == "big-record" else {"every": 7}
    pipeline = new_instance(simulator, batch_size=30)
    assert simulator.fault(kind, resource=VISITS, **options).fired
    is_right(pipeline, simulator, VISITS, pipeline.one(VISITS))
    assert quarantine(pipeline) == []


@pytest.mark.parametrize("page_size", [3, 8, 30])
def test_duplicate_ids_are_counted_and_the_last_one_wins(
    simulator: Simulator, new_instance: Make, page_size: int
) -> None:
    pipeline = new_instance(simulator, batch_size=page_size)
    repeated = simulator.fault("duplicate-ids", resource="rooms", every=5).fired
    result = pipeline.one("rooms")
    served = list(simulator.truth("rooms"))
    assert (result.status, result.records_read) == ("success", len(served))
    assert (result.inserted, result.duplicates) == (len(served) - repeated, repeated)
    last = {json.loads(record)["id"]: ("", record) for _, record in served}
    assert not pipeline.difference("rooms", last.values())
    assert result.warning is not None and "served twice" in result.warning
    again = pipeline.one("rooms")
    assert (again.inserted, again.updated, again.deleted) == (0, 0, 0)


@pytest.mark.parametrize("resource", [VISITS, PATIENTS])
@pytest.mark.parametrize("page_size", [7, 50])
@pytest.mark.parametrize(
    "kind",
    [
        "ignore-skip",
        "ignore-paging",
        "ignore-filter",
        "ignore-orderby",
        "reject-filter",
        "reject-orderby",
        "reject-count",
        "reject-top",
    ],
)
def test_an_endpoint_that_ignores_or_refuses_an_option_is_read_whole(
    simulator: Simulator, new_instance: Make, kind: str, page_size: int, resource: str
) -> None:
    pipeline = new_instance(simulator, batch_size=page_size)
    simulator.fault(kind, resource=resource)
    is_right(pipeline, simulator, resource, pipeline.one(resource))
    assert len(simulator.log) < 120
    is_right(pipeline, simulator, resource, pipeline.one(resource))


@pytest.mark.parametrize("resource", [VISITS, PATIENTS])
@pytest.mark.parametrize("limit", [7, 50, 200])
def test_pages_cut_silently_lose_nothing(
    simulator_factory: Callable[..., Simulator], new_instance: Make, limit: int, resource: str
) -> None:
    simulator = simulator_factory(scale=0.002 if limit == 200 and resource == PATIENTS else 0.0004)
    pipeline = new_instance(simulator)
    simulator.fault("cap", limit=limit)
    assert len(list(simulator.truth(resource))) > limit
    is_right(pipeline, simulator, resource, pipeline.one(resource))


@pytest.mark.parametrize("kinds", [("ignore-skip", "ignore-filter"), ("reject-filter", "ignore-skip")])
def test_a_listing_that_is_cut_and_cannot_be_paged_fails(
    simulator_factory: Callable[..., Simulator], new_instance: Make, kinds: tuple[str, ...]
) -> None:
    simulator = simulator_factory(next_links="none")
    pipeline = new_instance(simulator)
    simulator.fault("cap", limit=50, resource=VISITS)
    for kind in kinds:
        simulator.fault(kind, resource=VISITS)
    says_that_it_failed(pipeline, simulator, VISITS, pipeline.one(VISITS), "PagingBroken")


@pytest.mark.parametrize("resource", [VISITS, PATIENTS, "subject_statuses"])
@pytest.mark.parametrize("kind", [None, "ignore-filter", "reject-orderby"])
def test_rows_that_are_deleted_between_pages_take_no_neighbour_along(
    simulator: Simulator, new_instance: Make, resource: str, kind: str | None
) -> None:
    pipeline = new_instance(simulator, batch_size=6)
    if kind:
        simulator.fault(kind, resource=resource)
    pipeline.one(resource)
    deleting = simulator.fault("delete-between-pages", resource=resource, count=3)
    pipeline.one(resource, full_refresh=True, allow_mass_delete=True)
    assert deleting.fired == 3
    assert pipeline.difference(resource).missing == 0
    is_right(pipeline, simulator, resource, pipeline.one(resource, allow_mass_delete=True))


FAILING = {
    "401": ("unauthorised", {}, "Unauthorised"),
    "401 once": ("unauthorised", {"count": 1}, "Unauthorised"),
    "403": ("error", {"status": 403}, "Unauthorised"),
    "404": ("not-found", {}, "EndpointNotFound"),
    "501": ("not-implemented", {}, "EndpointNotOffered"),
    "400": ("error", {"status": 400}, "BadRequest"),
    "500 for ever": ("error", {}, "ServerTrouble"),
    "429 for ever": ("throttle", {"seconds": 0.01}, "RateLimited"),
    "truncated for ever": ("truncate", {}, "UnreadableAnswer"),
    "HTML for ever": ("html", {}, "UnreadableAnswer"),
    "reset for ever": ("reset", {}, "ConnectionTrouble"),
    "slow for ever": ("slow", {"seconds": 0.4, "pieces": 2}, "ReadTimeout"),
    "an unknown envelope": ("unknown-envelope", {}, "UnknownEnvelope"),
}


@pytest.mark.parametrize("fault", FAILING)
def test_lasting_trouble_is_said_and_what_was_staged_stays(
    simulator: Simulator, new_instance: Make, fault: str
) -> None:
    kind, options, error = FAILING[fault]
    pipeline = new_instance(simulator, batch_size=30, max_retries=1, timeout_seconds=0.25)
    pipeline.one(VISITS)
    before = pipeline.written(VISITS)
    simulator.fault(kind, resource=VISITS, after=1, **options)
    result = pipeline.one(VISITS, full_refresh=True)
    says_that_it_failed(pipeline, simulator, VISITS, result, error)
    assert pipeline.written(VISITS) == before
    simulator.faults.clear(simulator.api)
    is_right(pipeline, simulator, VISITS, pipeline.one(VISITS))

"""Every fault by its name."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
import requests

from clinical_conductor.simulator import Simulator
from clinical_conductor.simulator.faults import KINDS
from tests.simulator.reading import everything, get, ids, listed

PATIENTS, ELEMENTS = "/patients/odata", "/elements/odata"


def statuses(simulator: Simulator, path: str, times: int) -> list[int]:
    return [get(simulator, path).status_code for _ in range(times)]


def test_throttled_with_seconds(simulator: Simulator) -> None:
    simulator.fault("throttle", resource="patients", count=2, seconds=3)
    answer = get(simulator, PATIENTS)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "3")
    assert statuses(simulator, PATIENTS, 2) == [429, 200]
    assert statuses(simulator, ELEMENTS, 1) == [200]


def test_throttled_with_a_date(simulator: Simulator) -> None:
    simulator.fault("throttle-date", count=1, seconds=30)
    answer = get(simulator, PATIENTS)
    until = parsedate_to_datetime(answer.headers["Retry-After"])
    assert answer.status_code == 429
    assert until - parsedate_to_datetime(answer.headers["Date"]) == timedelta(seconds=30)
    assert abs(until - datetime.now(UTC) - timedelta(seconds=30)) < timedelta(seconds=5)


def test_bursts_of_errors(simulator: Simulator) -> None:
    simulator.fault("error", count=3, after=1)
    assert statuses(simulator, PATIENTS, 5) == [200, 500, 500, 500, 200]
    simulator.fault("error", status=503, count=1, seconds=2)
    assert get(simulator, PATIENTS).headers["Retry-After"] == "2"


@pytest.mark.parametrize(("kind", "status"), [("unauthorised", 401), ("not-found", 404), ("not-implemented", 501)])
def test_other_answers_instead(simulator: Simulator, kind: str, status: int) -> None:
    fault = simulator.fault(kind, resource="patients", count=1)
    assert statuses(simulator, PATIENTS, 2) == [status, 200]
    assert fault.fired == 1


def test_one_parent_may_fail(simulator: Simulator) -> None:
    simulator.fault("error", path="/patients/500003/devices$")
    simulator.fault("not-found", path="/patients/500004/devices$")
    assert [get(simulator, f"/patients/50000{n}/devices").status_code for n in (2, 3, 4, 5)] == [200, 500, 404, 200]
    assert get(simulator, "/patients/500003/allergies").status_code == 200


def test_probability_is_the_same_every_time(simulator_factory) -> None:
    runs = []
    for _ in range(2):
        simulator = simulator_factory()
        simulator.fault("error", probability=0.3)
        runs.append(statuses(simulator, "/study-types", 60))
    assert runs[0] == runs[1]
    assert 5 < runs[0].count(500) < 35


def test_broken_bodies(simulator: Simulator) -> None:
    simulator.fault("truncate", count=1)
    answer = get(simulator, PATIENTS)
    assert answer.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.content)
    simulator.fault("html", count=1)
    answer = get(simulator, PATIENTS)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html")
    simulator.fault("reset", count=1)
    with pytest.raises(requests.RequestException):
        get(simulator, PATIENTS)
    simulator.fault("unknown-envelope", count=1)
    assert list(get(simulator, PATIENTS).json()) == ["Results", "Total"]
    assert len(listed(simulator, PATIENTS)) == 24


def test_slow_and_late_answers(simulator: Simulator) -> None:
    simulator.fault("latency", count=1, seconds=0.1)
    assert get(simulator, PATIENTS).elapsed >= timedelta(seconds=0.1)
    simulator.fault("slow", count=1, seconds=0.02, pieces=5)
    assert len(listed(simulator, PATIENTS)) == 24


def test_the_page_before_again(simulator: Simulator) -> None:
    fault = simulator.fault("duplicate-page", count=1)
    pages = [ids(listed(simulator, ELEMENTS, top=30, skip=skip)) for skip in (0, 30, 30, 60)]
    assert pages[0] == pages[1]
    assert [len(set(pages[0]) & set(page)) for page in pages[2:]] == [0, 0]
    assert fault.fired == 1


def test_a_row_deleted_between_two_pages_shifts_the_rest(simulator: Simulator) -> None:
    before = [r["id"] for _, r in everything(simulator, "elements")]
    simulator.fault("delete-between-pages", resource="elements", count=1)
    first = ids(listed(simulator, ELEMENTS, top=30))
    second = ids(listed(simulator, ELEMENTS, top=30, skip=30))
    assert first == before[:30]
    assert second == before[31:61], "the neighbour was lost, as in life"
    assert before[0] not in [r["id"] for _, r in everything(simulator, "elements")]


def test_endpoints_that_ignore_what_they_are_asked(simulator_factory) -> None:
    def ask(kind: str, **options: object) -> list[int]:
        simulator = simulator_factory()
        simulator.fault(kind, resource="elements", **({"limit": 10} if kind == "cap" else {}))
        return ids(listed(simulator, ELEMENTS, **options))

    first = list(range(70001, 70073))
    assert ask("ignore-skip", top=5, skip=30) == first[:5]
    assert ask("ignore-paging", top=5, skip=30) == first
    assert ask("ignore-filter", top=5, filter="id ge 70010") == first[:5]
    assert ask("ignore-orderby", top=5, orderby="id desc") == first[:5]
    assert ask("cap", top=1000) == first[:10]


def test_endpoints_that_reject_an_option(simulator: Simulator) -> None:
    for kind in ("filter", "orderby", "count", "top"):
        simulator.fault(f"reject-{kind}", resource="elements")
    asked = [{"filter": "id ge 1"}, {"orderby": "id"}, {"count": "true"}, {"top": 5}, {"skip": 5}]
    assert [get(simulator, ELEMENTS, **options).status_code for options in asked] == [400, 400, 400, 400, 200]
    assert get(simulator, "/rooms/odata", filter="id ge 1").status_code == 200


@pytest.mark.parametrize(
    ("kind", "piece"),
    [
        ("nul", b"before\\u0000after"),
        ("surrogate", b"\\ud83d"),
        ("raw-surrogate", b"\xed\xa0\xbd"),
        ("invalid-utf8", b"\xff\xfe"),
        ("big-integer", b":12345678901234567890123}"),
        ("overflow", b"1e400000"),
        ("non-ascii", "東京".encode()),
        ("null-id", b'"id":null'),
        ("big-ids", b'"id":10000000000000000000'),
    ],
)
def test_records_that_are_hard_to_store(simulator: Simulator, kind: str, piece: bytes) -> None:
    simulator.fault(kind, resource="patients", every=6)
    spoiled = [record for _, record in simulator.truth("patients") if piece in record]
    assert len(spoiled) == 4
    body = get(simulator, PATIENTS).content
    assert all(record in body for record in spoiled)


def test_records_without_id_and_very_large_ones(simulator: Simulator) -> None:
    simulator.fault("no-id", resource="patients", every=12)
    simulator.fault("big-record", resource="patients", every=24)
    records = [record for _, record in everything(simulator, "patients")]
    assert ["id" in record for record in records].count(False) == 2
    assert len(next(record for _, record in simulator.truth("patients") if len(record) > 10_000)) > 4_000_000
    assert listed(simulator, PATIENTS) == records


def test_clearing_makes_everything_well(simulator: Simulator) -> None:
    before = list(simulator.truth("patients"))
    for kind in ("nul", "duplicate-ids", "no-id"):
        simulator.fault(kind, resource="patients", every=3)
    simulator.fault("error")
    assert list(simulator.truth("patients")) != before
    simulator.faults.clear(simulator.api)
    assert list(simulator.truth("patients")) == before
    assert statuses(simulator, PATIENTS, 1) == [200]


def test_unknown_faults_are_refused(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="There is no fault 'nothing'"):
        simulator.fault("nothing")
    with pytest.raises(ValueError, match="needs a resource"):
        simulator.fault("nul")
    with pytest.raises(KeyError):
        simulator.fault("error", resource="nothing")


def test_the_docstring_names_every_fault() -> None:
    from clinical_conductor.simulator import faults

    assert faults.__doc__
    words = faults.__doc__.replace(",", " ").replace(":", " ").split()
    assert [kind for kind in sorted(KINDS) if kind not in words] == []


def test_hooks_may_change_the_world_between_pages(simulator: Simulator) -> None:
    seen = []

    def hook(request) -> None:
        seen.append(request.path)
        if len(seen) == 2:
            simulator.insert("elements", "1001", name="late")

    simulator.on_request(hook)
    listed(simulator, ELEMENTS)
    assert listed(simulator, ELEMENTS, orderby="id", top=1000)[-1]["name"] == "late"
    assert seen == ["/CCSWEB/api/v1/elements/odata"] * 2

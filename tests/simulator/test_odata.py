"""The query options, as an OData server takes them."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise

import pytest

from clinical_conductor.simulator import EPOCH, Simulator
from tests.simulator.reading import get, ids, listed, session

PATIENTS, ELEMENTS, VISITS = "/patients/odata", "/elements/odata", "/patient-visits/odata"


def test_top_is_50_unless_told(simulator: Simulator) -> None:
    assert len(listed(simulator, ELEMENTS)) == 50
    assert len(listed(simulator, ELEMENTS, top=7)) == 7
    assert listed(simulator, ELEMENTS, top=0) == []
    assert len(listed(simulator, ELEMENTS, top=1000)) == 72


def test_more_than_the_maximum_is_rejected_or_cut(simulator_factory) -> None:
    assert get(simulator_factory(), ELEMENTS, top=1001).status_code == 400
    cutting = simulator_factory(over_max="cut", max_top=60)
    assert len(listed(cutting, ELEMENTS, top=1001)) == 60


def test_skip_goes_on_where_the_page_before_ended(simulator: Simulator) -> None:
    pages = [ids(listed(simulator, VISITS, top=100, skip=skip)) for skip in (0, 100, 200, 300)]
    assert [len(page) for page in pages] == [100, 100, 30, 0]
    assert [key for page in pages for key in page] == [
        record["id"] for record in map(json.loads, (r for _, r in simulator.truth("patient_visits")))
    ]


def test_count_is_of_what_the_filter_leaves(simulator: Simulator) -> None:
    assert get(simulator, VISITS, top=1).json()["Count"] is None
    assert get(simulator, VISITS, top=1, count="true").json()["Count"] == 230
    assert get(simulator, VISITS, top=1, count="true", filter="id lt 3000011").json()["Count"] == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id ge 500003 and id lt 500006", [500003, 500004, 500005]),
        ("id gt 500003 and id le 500005", [500004, 500005]),
        ("id eq 500009", [500009]),
        ("id gt 500023", [500024]),
        ("id gt 999999", []),
        ("id lt 0", []),
    ],
)
def test_filter_by_id(simulator: Simulator, text: str, expected: list[int]) -> None:
    assert ids(listed(simulator, PATIENTS, filter=text)) == expected


def test_filter_and_order_by_other_properties(simulator: Simulator) -> None:
    visits = listed(simulator, VISITS, filter="study/id eq 1002", top=1000)
    assert visits
    assert {v["study"]["id"] for v in visits} == {1002}
    women = listed(simulator, PATIENTS, filter="genderCode eq 'F' and caregiver eq true")
    assert {(p["genderCode"], p["caregiver"]) for p in women} == {("F", True)}
    born = [p["dateOfBirth"] for p in listed(simulator, PATIENTS, orderby="dateOfBirth desc")]
    assert born == sorted(born, reverse=True)
    cut = born[10]
    assert [
        p["dateOfBirth"]
        for p in listed(simulator, PATIENTS, filter=f"dateOfBirth gt {cut}Z", orderby="dateOfBirth desc")
    ] == born[:10]
    reverse = ids(listed(simulator, PATIENTS, orderby="id desc"))
    assert reverse == sorted(reverse, reverse=True)


def test_filter_by_modified_date_finds_what_changed(simulator: Simulator) -> None:
    before = {p["id"]: p["modifiedDate"] for p in listed(simulator, PATIENTS)}
    assert all(at < EPOCH.isoformat() for at in before.values())
    simulator.advance(change=0.2)
    after = {p["id"]: p["modifiedDate"] for p in listed(simulator, PATIENTS)}
    changed = {key for key, at in after.items() if before.get(key) != at}
    since = f"modifiedDate ge {EPOCH:%Y-%m-%dT%H:%M:%SZ}"
    assert changed
    assert set(ids(listed(simulator, PATIENTS, filter=since))) == changed
    assert listed(simulator, PATIENTS, filter=f"modifiedDate gt {max(after.values())}") == []
    assert set(ids(listed(simulator, PATIENTS, filter=f"modifiedDate ge {max(after.values())}"))) <= changed
    old = sorted(before.values())[5]
    kept = listed(simulator, PATIENTS, filter=f"modifiedDate ge {old} and id gt 500010")
    assert set(ids(kept)) == {key for key, at in after.items() if at >= old and key > 500010}


def test_other_dates_work_too(simulator: Simulator) -> None:
    moment = f"{EPOCH - timedelta(days=400):%Y-%m-%dT%H:%M:%SZ}"
    studies = listed(simulator, "/studies/odata")
    expected = [s["id"] for s in studies if s["lastUpdatedOn"] >= moment]
    assert ids(listed(simulator, "/studies/odata", filter=f"lastUpdatedOn ge {moment}")) == expected
    assert ids(listed(simulator, "/studies/odata", filter=f"lastUpdatedOn ge datetime'{moment}'")) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"filter": "nothing eq 1"},
        {"filter": "Id eq 1"},
        {"filter": "id eq '1'"},
        {"filter": "id eq"},
        {"filter": "id ge 1 or id lt 0"},
        {"filter": "modifiedDate ge '2026-01-01'"},
        {"filter": "id ge 1 and "},
        {"orderby": "nothing"},
        {"orderby": "id upwards"},
        {"top": "-1"},
        {"top": "many"},
        {"skip": "x"},
        {"count": "yes"},
        {"select": "id"},
    ],
)
def test_what_is_not_understood_is_400(simulator: Simulator, options: dict[str, str]) -> None:
    assert get(simulator, PATIENTS, **options).status_code == 400


def test_a_plus_is_no_blank(simulator_factory) -> None:
    def ask(simulator: Simulator) -> int:
        url = f"{simulator.base_url}/api/v1{PATIENTS}?$filter=id+gt+500020"
        return session.get(url, headers={"X-ApiKey": simulator.api_key}, timeout=10).status_code

    assert ask(simulator_factory()) == 400
    assert ask(simulator_factory(plus_is_blank=True)) == 200


def test_without_modified_date_there_is_no_such_property(simulator_factory) -> None:
    simulator = simulator_factory(modified_date=False)
    assert "modifiedDate" not in listed(simulator, PATIENTS)[0]
    assert get(simulator, PATIENTS, filter="modifiedDate ge 2026-01-01T00:00:00Z").status_code == 400
    assert get(simulator, PATIENTS, orderby="modifiedDate").status_code == 400
    assert "lastUpdatedOn" in listed(simulator, "/studies/odata")[0]


def test_plain_paths_and_plain_instances_ignore_the_options(simulator: Simulator, simulator_factory) -> None:
    assert len(listed(simulator, "/system/study-categories", top=1, skip=5, filter="nonsense")) == 20
    assert len(listed(simulator_factory(odata=False), ELEMENTS, top=1)) == 72


@pytest.mark.parametrize("links", ["absolute", "relative", "empty"])
def test_next_links_lead_through_everything(simulator_factory, links: str) -> None:
    simulator = simulator_factory(next_links=links)
    url = f"{simulator.base_url}/api/v1{ELEMENTS}?$top=20&$filter=id%20gt%2070002"
    seen: list[int] = []
    while url:
        body = session.get(url, headers={"X-ApiKey": simulator.api_key}, timeout=10).json()
        seen += ids(body["Items"])
        link = body["NextPageLink"]
        if link:
            assert link.startswith("/CCSWEB/" if links == "relative" else simulator.base_url)
        url = link and (f"http://127.0.0.1:{simulator.port}{link}" if links == "relative" else link)
    assert seen == list(range(70003, 70073))
    assert link == ("" if links == "empty" else None)


@pytest.mark.parametrize("kind", ["number", "string", "guid"])
def test_keyset_paging_reaches_every_row_whatever_the_ids_are(simulator_factory, kind: str) -> None:
    simulator = simulator_factory(ids=kind)
    expected = [json.loads(record)["id"] for _, record in simulator.truth("patient_visits")]
    seen: list[object] = []
    options = {"top": 40, "orderby": "id"}
    while page := ids(listed(simulator, VISITS, **options)):
        seen += page
        last = page[-1]
        literal = "'" + last.replace("'", "''") + "'" if kind == "string" else str(last)
        options["filter"] = f"id gt {literal}"
    assert len(seen) == len(set(seen))
    assert set(seen) == set(expected)
    if kind == "string":
        assert seen == sorted(seen)
    if kind == "guid":
        assert seen != sorted(seen), "the server has an order of its own"


@pytest.mark.parametrize("kind", ["string", "guid"])
def test_ids_of_any_kind_lead_to_children(simulator_factory, kind: str) -> None:
    simulator = simulator_factory(ids=kind)
    for study in ids(listed(simulator, "/studies/odata")):
        for subject in listed(simulator, f"/studies/{study}/subjects/odata"):
            assert subject["study"]["id"] == study
            for visit in listed(simulator, f"/studies/{study}/subjects/{subject['id']}/patient-visits"):
                assert visit["subject"]["Id"] == subject["id"]


def test_duplicate_ids_stay_in_order(simulator: Simulator) -> None:
    simulator.fault("duplicate-ids", resource="patients", every=5)
    served = ids(listed(simulator, PATIENTS, orderby="id", top=1000))
    assert len(served) == 24
    assert len(set(served)) == 20
    assert all(a <= b for a, b in pairwise(served))

"""What the instance holds: the same every time, consistent with itself, and changing as told."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from clinical_conductor.catalog import ENDPOINTS, join_key
from clinical_conductor.simulator import Simulator
from clinical_conductor.simulator.shapes import TABLES
from clinical_conductor.simulator.world import World
from tests.simulator.reading import everything, get, ids, listed

RESOURCES = [endpoint.resource for endpoint in ENDPOINTS.values() if endpoint.active]

# a resource's field → the resource (and its field) that must have such a row
REFERENCES = {
    "studies": {
        "sponsor.id": "sponsors",
        "sponsorDivision.id": "sponsor_divisions",
        "sponsorTeam.id": "sponsor_teams",
        "managingSite.id": "sites",
        "organization.Id": "system_organizations",
        "studyLead.staff.id": "staff",
    },
    "patients": {"primarySite.id": "sites"},
    "sponsor_divisions": {"sponsor.id": "sponsors"},
    "sponsor_teams": {"sponsor.id": "sponsors", "sponsorDivision.id": "sponsor_divisions"},
    "rooms": {"site.id": "sites", "defaultSchedule.id": "schedules"},
    "elements": {"study.id": "studies"},
    "visits": {"study.id": "studies", "protocolVersion.id": "study_protocol_versions"},
    "subjects": {
        "study.id": "studies",
        "site.id": "sites",
        "patient.id": "patients",
        "protocolVersion.id": "study_protocol_versions",
        "arm.Id": "study_arms",
    },
    "subject_statuses": {"study.id": "studies", "site.id": "sites", "subject.Id": "subjects"},
    "patient_visits": {"study.id": "studies", "subject.Id": "subjects", "visitId": "visits"},
    "appointments": {"study.id": "studies", "site.id": "sites", "patient.id": "patients", "visit.id": "visits"},
    "queries": {"study.id": "studies", "assignedToMonitor.id": "monitors", "requestedByStaff.id": "staff"},
    "visit_elements": {"elementId": "elements"},
    "visit_elements_by_study": {"visit.id": "visits", "element.id": "elements"},
    "study_visit_arms": {"Id": "study_arms"},
    "study_personnel": {"Role.Id": "study_roles"},
    "patient_visit_stipends": {"patientVisitId": "patient_visits", "patientStudyId": "subjects"},
    "patient_payments": {"patientVisitId": "patient_visits", "patientStudyId": "subjects"},
    "patient_devices": {"device.id": "system_devices"},
    "patient_allergies": {"allergy.id": "system_allergies"},
    "patient_conditions": {"condition.id": "system_conditions"},
    "patient_medications": {"medication.id": "system_medications"},
    "patient_immunizations": {"immunizationType.id": "system_immunizations"},
    "patient_social_history": {"socialHistory.id": "system_social_history"},
    "patient_campaign_touches": {"study.id": "studies"},
    "site_payments": {"site.id": "sites"},
}


def field(record: Any, path: str) -> Any:
    for part in path.split("."):
        record = None if record is None else record[part]
    return record


def snapshot(simulator: Simulator) -> dict[str, list[tuple[str, bytes]]]:
    return {resource: list(simulator.truth(resource)) for resource in RESOURCES}


def test_the_same_seed_makes_the_same_instance(simulator_factory) -> None:
    first, second, other = simulator_factory(), simulator_factory(), simulator_factory(seed=2)
    assert snapshot(first) == snapshot(second)
    assert snapshot(first) != snapshot(other)
    for simulator in (first, second):
        simulator.advance(3, change=0.1)
    assert snapshot(first) == snapshot(second)


def test_what_is_served_is_the_truth_byte_for_byte(simulator: Simulator) -> None:
    simulator.advance(2, change=0.1)
    served = listed(simulator, "/patients/odata", top=1000)
    assert [(("", r)) for r in served] == everything(simulator, "patients")
    body = get(simulator, "/studies").content
    assert body == b"[" + b",".join(record for _, record in simulator.truth("studies_list")) + b"]"
    for parent, record in islice(simulator.truth("patient_medications"), 10):
        assert record in get(simulator, f"/patients/{parent}/medications").content
    for parent, record in islice(simulator.truth("visit_elements_by_study"), 10):
        study, visit = parent.split("/")
        assert record in get(simulator, f"/studies/{study}/visits/{visit}/elements/odata").content
    for parent, record in islice(simulator.truth("patient_visits"), 10):
        study, subject = parent.split("/")
        assert record in get(simulator, f"/studies/{study}/subjects/{subject}/patient-visits").content


@pytest.mark.parametrize("days", [0, 4])
def test_every_reference_leads_to_a_row(simulator: Simulator, days: int) -> None:
    simulator.advance(days, change=0.2)
    keys = {
        resource: {record.get("id", record.get("Id")) for _, record in everything(simulator, resource)}
        for resource in {target for fields in REFERENCES.values() for target in fields.values()}
    }
    dangling = [
        (resource, path, field(record, path))
        for resource, fields in REFERENCES.items()
        for _, record in everything(simulator, resource)
        for path, target in fields.items()
        if field(record, path) is not None and field(record, path) not in keys[target]
    ]
    assert not dangling


@pytest.mark.parametrize("days", [0, 4])
def test_children_are_listed_under_existing_parents_only(simulator: Simulator, days: int) -> None:
    simulator.advance(days, change=0.2)
    parents = {
        join_key([str(record["id"])])
        for name in ("studies", "patients", "patient_visits")
        for _, record in everything(simulator, name)
    }
    for resource in RESOURCES:
        for parent, _ in simulator.truth(resource):
            assert parent == "" or parent.split("/")[0] in parents, resource


def test_ids_are_unique_where_they_should_be_and_repeat_where_they_may(simulator: Simulator) -> None:
    for resource in ("studies", "patients", "subjects", "patient_visits", "visit_elements", "visits", "elements"):
        numbers = [record["id"] for _, record in everything(simulator, resource)]
        assert len(numbers) == len(set(numbers)), resource
    devices = everything(simulator, "patient_devices")
    assert Counter(record["id"] for _, record in devices)[1] > 5
    assert len({(parent, record["id"]) for parent, record in devices}) == len(devices)


def test_records_without_identity_differ_at_least_in_content(simulator: Simulator) -> None:
    for resource in ("subject_statuses", "study_warnings"):
        records = list(simulator.truth(resource))
        assert len(records) == len(set(records))
    visit_elements = [(p, r["element"]["id"]) for p, r in everything(simulator, "visit_elements_by_study")]
    assert len(visit_elements) == len(set(visit_elements))


def test_a_subject_has_the_status_of_its_last_event(simulator: Simulator) -> None:
    simulator.advance(5, change=0.3)
    current = {
        r["subject"]["Id"]: r["status"] for _, r in everything(simulator, "subject_statuses") if r["isCurrentStatus"]
    }
    statuses = {r["id"]: r["status"] for _, r in everything(simulator, "subjects")}
    assert {key: status for key, status in statuses.items() if key in current} == current


def test_a_day_changes_adds_and_removes(simulator: Simulator) -> None:
    before = {r["id"]: r for _, r in everything(simulator, "patients")}
    simulator.advance(3, change=0.1)
    after = {r["id"]: r for _, r in everything(simulator, "patients")}
    changed = [key for key in before.keys() & after.keys() if before[key] != after[key]]
    assert changed
    assert after.keys() - before.keys()
    assert before.keys() - after.keys()
    for key in changed:
        assert after[key]["modifiedDate"] > before[key]["modifiedDate"]
        without = [{k: v for k, v in r.items() if k != "modifiedDate"} for r in (before[key], after[key])]
        assert without[0] != without[1], "an edit shows without modifiedDate, too"
    for key in after.keys() - before.keys():
        assert listed(simulator, f"/patients/{key}/medications") is not None
    for key in before.keys() - after.keys():
        assert get(simulator, f"/patients/{key}/medications").status_code == 404


def test_a_childs_change_touches_its_parent_in_half_of_the_cases(simulator_factory) -> None:
    simulator = simulator_factory(scale=0.002)
    parents = {str(r["id"]): r["modifiedDate"] for _, r in everything(simulator, "patients")}
    before = set(simulator.truth("patient_conditions"))
    simulator.advance(change=0.05)
    now = {str(r["id"]): r["modifiedDate"] for _, r in everything(simulator, "patients")}
    changed = {parent for parent, _ in set(simulator.truth("patient_conditions")) - before if parent in parents}
    touched = {parent for parent in changed if now.get(parent) != parents[parent]}
    assert 0.2 < len(touched) / len(changed) < 0.85


def test_edit_insert_delete(simulator: Simulator) -> None:
    simulator.edit("patients", "", "500003", firstName="Changed")
    record = listed(simulator, "/patients/odata", filter="id eq 500003")[0]
    assert record["firstName"] == "Changed"
    assert record["modifiedDate"] > "2026-06-01"
    before = record["modifiedDate"]
    simulator.edit("patients", "", "500003", touch=False, lastName="Silent")
    record = listed(simulator, "/patients/odata", filter="id eq 500003")[0]
    assert (record["lastName"], record["modifiedDate"]) == ("Silent", before)

    simulator.edit("patient_devices", "500003", listed(simulator, "/patients/500003/devices")[0]["id"], comment="new")
    assert listed(simulator, "/patients/500003/devices")[0]["comment"] == "new"

    new = simulator.insert("patients", firstName="New")
    assert listed(simulator, "/patients/odata", filter=f"id eq {new}")[0]["firstName"] == "New"
    child = simulator.insert("patient_devices", new, comment="his first")
    assert str(ids(listed(simulator, f"/patients/{new}/devices"))[-1]) == child
    given = simulator.insert("patients", id=7, firstName="Seven")
    assert (given, ids(listed(simulator, "/patients/odata", orderby="id"))[0]) == ("7", 7)
    assert listed(simulator, "/patients/7/devices") == [
        r for p, r in everything(simulator, "patient_devices") if p == "7"
    ]

    simulator.delete("patients", "", new)
    assert get(simulator, f"/patients/{new}/devices").status_code == 404
    assert new not in [parent for parent, _ in simulator.truth("patient_devices")]
    with pytest.raises(KeyError):
        simulator.delete("patients", "", new)


def test_edits_reach_two_levels_down(simulator: Simulator) -> None:
    study, subject = "1001", "200001"
    visit = listed(simulator, f"/studies/{study}/subjects/{subject}/patient-visits")[0]["id"]
    simulator.edit("subject_patient_visits", f"{study}/{subject}", str(visit), cycleName="Edited")
    assert (f"{study}/{subject}", "Edited") in [(p, r["cycleName"]) for p, r in everything(simulator, "patient_visits")]
    simulator.delete("studies", "", study)
    assert get(simulator, f"/patient-visits/{visit}/elements/odata").status_code == 404
    assert all(not p.startswith(f"{study}/") for p, _ in simulator.truth("patient_visits"))


def test_an_inserted_sibling_changes_no_other_record(simulator: Simulator) -> None:
    before = snapshot(simulator)
    for resource in ("visits", "study_arms", "study_protocol_versions", "elements", "patient_visits"):
        simulator.insert(resource, "200001" if resource == "patient_visits" else "1001")
    after = snapshot(simulator)
    for resource in RESOURCES:
        assert set(before[resource]) <= set(after[resource]), resource


def test_raw_bytes_are_served_as_they_are(simulator: Simulator) -> None:
    raw = b'{"id":500002,"firstName":"\\u0000","lastName":"\\ud800", "n":123456789012345678901234567890}'
    simulator.replace_raw("patients", "", "500002", raw)
    assert raw in get(simulator, "/patients/odata").content
    assert ("", raw) in list(simulator.truth("patients"))


def test_the_date_header_is_the_instances_own_time(simulator: Simulator) -> None:
    assert get(simulator, "/studies").headers["Date"] == "Mon, 01 Jun 2026 06:00:00 GMT"
    simulator.advance(2)
    assert get(simulator, "/studies").headers["Date"] == "Wed, 03 Jun 2026 06:00:00 GMT"


def test_scale_one_has_the_size_of_a_real_instance_at_once() -> None:
    world = World(1.0)
    sizes = {name: rows.size for name, rows in world.tables.items()}
    assert {
        name: sizes[name] for name in ("studies", "patients", "patient_visits", "elements", "subject_statuses")
    } == {
        "studies": 1050,
        "patients": 152_751,
        "patient_visits": 2_300_000,
        "elements": 15_836,
        "subject_statuses": 119_749,
    }
    assert 17_000 < sizes["subjects"] < 89_000
    assert 2_000_000 < sizes["patient_visit_elements"] < 2_300_000
    assert sizes["system_devices"] == 3294
    record = world.tables["patients"].record(100_000)
    assert 1400 < len(record) < 2000
    assert json.loads(world.tables["patient_visits"].record(2_299_999))["subject"]["Id"] > 200_000
    world.advance(1)
    assert len(world.tables["patients"].versions) > 1000


def test_parents_of_every_row_follow_from_arithmetic() -> None:
    world = World(0.002)
    for rows in world.tables.values():
        if rows.parent is not None:
            listed_rows = [row for parent in range(rows.parent.size) for row in rows.of(parent)]
            assert listed_rows == list(range(rows.size)), rows.table.name
            assert all(rows.parent_of(row) == parent for parent in range(rows.parent.size) for row in rows.of(parent))


def test_every_table_is_served(simulator: Simulator) -> None:
    from clinical_conductor.simulator.routes import ROUTES

    assert {route.table for route in ROUTES} == set(TABLES)

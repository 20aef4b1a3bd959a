"""The paths, written out by hand from the vendor's document and the job inventory: nothing here is derived."""

from __future__ import annotations

import re

import pytest

from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.simulator import Simulator
from tests.simulator.reading import get

STUDY, VISIT, SUBJECT, PATIENT, PATIENT_VISIT = "1001", "50001", "200001", "500001", "3000001"

# path → what the published document says it answers with
IN_BOTH = {
    "/sites": "array",
    "/studies/odata": "array",
    "/studies": "array",
    f"/studies/{STUDY}": "object",
    "/patients/odata": "array",
    "/elements/odata": "page",
    "/patient-visits/odata": "page",
    f"/studies/{STUDY}/subjects/odata": "page",
    f"/studies/{STUDY}/visits/odata": "page",
    f"/studies/{STUDY}/documents/odata": "page",
    f"/studies/{STUDY}/monitor-queries/odata": "page",
    "/appointments/odata": "page",
    "/staff/odata": "array",
    f"/studies/{STUDY}/actions/odata": "page",
    f"/studies/{STUDY}/milestones/odata": "page",
    f"/studies/{STUDY}/notes/odata": "page",
    "/providers/odata": "page",
    "/rooms/odata": "page",
    "/schedules/odata": "page",
    "/sponsors/odata": "page",
    "/system/allergies/odata": "page",
    "/system/conditions/odata": "page",
    "/system/medications/odata": "page",
    "/system/procedures/odata": "page",
    "/system/immunizations/odata": "page",
    "/system/devices/odata": "page",
    "/system/social-history/odata": "page",
    "/subject-statuses/odata": "page",
    "/system/document-types": "array",
    "/system/action-categories": "array",
    "/system/study-categories": "array",
    "/system/study-subcategories": "array",
    "/system/lookup-lists": "strings",
    "/system/patient-customfields": "array",
    "/system/study-customfields": "array",
    "/system/organizations": "array",
    "/sponsor-divisions": "array",
    "/sponsor-teams": "array",
    "/monitors": "array",
    "/room-groups": "array",
    f"/studies/{STUDY}/arms": "array",
    f"/studies/{STUDY}/protocol-versions": "array",
    f"/studies/{STUDY}/roles": "array",
    f"/studies/{STUDY}/personnel": "array",
    f"/studies/{STUDY}/warnings": "array",
    f"/studies/{STUDY}/integration-info": "object",
    f"/patients/{PATIENT}/devices": "array",
    f"/patients/{PATIENT}/allergies": "array",
    f"/patients/{PATIENT}/providers": "array",
    f"/patients/{PATIENT}/conditions": "array",
    f"/patients/{PATIENT}/procedures": "array",
    f"/patients/{PATIENT}/medications": "array",
    f"/patients/{PATIENT}/immunizations": "array",
    f"/patients/{PATIENT}/family-history": "array",
    f"/patients/{PATIENT}/social-history": "array",
    f"/patients/{PATIENT}/touches/campaign": "array",
    f"/patients/{PATIENT}/touches/referral": "array",
    "/instance/details": "object",
    "/instance/topology": "object",
    f"/studies/{STUDY}/subjects/{SUBJECT}/patient-visits": "array",
    "/site-payments/odata": "page",
    f"/studies/{STUDY}/visits/{VISIT}/arms": "array",
    f"/studies/{STUDY}/visits/{VISIT}/elements/odata": "page",
}
IN_SPEC_ONLY = {
    "/sites/odata": "array",
    "/subjects/odata": "page",
    "/visits/odata": "page",
    "/sponsor-divisions/odata": "page",
    "/sponsor-teams/odata": "page",
    "/room-groups/odata": "page",
    "/system/study-statuses": "array",
    f"/patient-visits/{PATIENT_VISIT}/elements": "array",
    f"/patient-visits/{PATIENT_VISIT}/stipends": "array",
}
IN_INVENTORY_ONLY = {
    "/system/study-statuses/odata": "page",
    f"/patient-visits/{PATIENT_VISIT}/elements/odata": "page",
    f"/patient-visits/{PATIENT_VISIT}/stipends/odata": "page",
    "/action-unit-completions/odata": "page",
    "/invoices/odata": "page",
    "/prospects/odata": "page",
    "/remittances/odata": "page",
    "/remittance-notes/odata": "page",
    "/study-types": "array",
    "/patient-payments/odata": "page",
}
NOT_THERE = (
    "/users/odata",
    "/roles/odata",
    "/departments/odata",
    "/audits/odata",
    f"/studies/{STUDY}/forms/odata",
    f"/studies/{STUDY}/screenings/odata",
    f"/studies/{STUDY}/enrollments/odata",
    f"/studies/{STUDY}/randomizations/odata",
    f"/studies/{STUDY}/withdrawals/odata",
    f"/studies/{STUDY}/protocol-deviations/odata",
    f"/studies/{STUDY}/adverse-events/odata",
    f"/studies/{STUDY}/concomitant-medications/odata",
    f"/studies/{STUDY}/lab-results/odata",
    f"/studies/{STUDY}/vitals/odata",
    f"/studies/{STUDY}/queries/odata",
    f"/studies/{STUDY}/visit-arms/odata",
    f"/studies/{STUDY}/visit-elements/odata",
)


def kind_of(body: object) -> str:
    if isinstance(body, list):
        return "strings" if body and isinstance(body[0], str) else "array"
    assert isinstance(body, dict)
    return "page" if list(body) == ["Items", "NextPageLink", "Count"] else "object"


def test_every_path_answers_in_the_published_envelope(simulator: Simulator) -> None:
    wrong = {}
    for path, kind in {**IN_BOTH, **IN_SPEC_ONLY, **IN_INVENTORY_ONLY}.items():
        answer = get(simulator, path)
        if answer.status_code != 200 or kind_of(answer.json()) != kind:
            wrong[path] = (answer.status_code, answer.text[:80])
    assert not wrong


def test_paths_that_do_not_exist_are_404(simulator: Simulator) -> None:
    assert {path: get(simulator, path).status_code for path in NOT_THERE} == dict.fromkeys(NOT_THERE, 404)


@pytest.mark.parametrize(
    ("paths", "there", "missing"),
    [("spec", IN_SPEC_ONLY, IN_INVENTORY_ONLY), ("inventory", IN_INVENTORY_ONLY, IN_SPEC_ONLY)],
)
def test_an_instance_may_know_only_one_list(simulator_factory, paths, there, missing) -> None:
    simulator = simulator_factory(paths=paths)
    assert {get(simulator, path).status_code for path in {**IN_BOTH, **there}} == {200}
    assert {get(simulator, path).status_code for path in missing} == {404}


def test_the_catalog_asks_for_nothing_else(simulator: Simulator) -> None:
    known = {re.sub(r"(?<=/)\d+(?=/|$)", "{}", path) for path in {**IN_BOTH, **IN_SPEC_ONLY, **IN_INVENTORY_ONLY}}
    for endpoint in ENDPOINTS.values():
        if endpoint.active:
            asked = {*endpoint.paths, *([endpoint.bulk.path] if endpoint.bulk else [])}
            shapes = {re.sub(r"{\w+}", "{}", path.removeprefix("/api/v1")) for path in asked}
            assert shapes <= known, endpoint.resource


def test_every_active_endpoint_serves_rows_at_the_smallest_scale(simulator: Simulator) -> None:
    empty = [e.resource for e in ENDPOINTS.values() if e.active and next(simulator.truth(e.resource), None) is None]
    assert not empty


def test_endpoints_of_the_other_edition_answer_501(simulator: Simulator) -> None:
    assert get(simulator, "/monitor-queries/odata").status_code == 501
    assert get(simulator, "/engagements/odata").status_code == 501


@pytest.mark.parametrize(
    "path",
    [
        "/studies/77/arms",
        "/studies/none/arms",
        "/studies/77",
        "/patients/1/devices",
        "/patient-visits/1/elements/odata",
        "/studies/1002/subjects/200001/patient-visits",
        "/studies/1002/visits/50001/arms",
    ],
)
def test_children_of_what_does_not_exist_are_404(simulator: Simulator, path: str) -> None:
    assert get(simulator, path).status_code == 404


def test_the_key_is_asked_for_everywhere_but_in_instance_details(simulator_factory) -> None:
    simulator = simulator_factory(api_key="right", key_header="CCAPIKey")
    assert get(simulator, "/studies/odata").status_code == 401
    assert get(simulator, "/instance/details").status_code == 200
    simulator = simulator_factory()
    object.__setattr__(simulator.api.behaviour, "api_key", "another")
    assert get(simulator, "/studies/odata").status_code == 200


def test_paths_off_the_base_are_404(simulator: Simulator) -> None:
    simulator_url = simulator.base_url.replace("/CCSWEB", "/OTHER")
    from tests.simulator.reading import session

    answer = session.get(f"{simulator_url}/api/v1/studies", headers={"X-ApiKey": simulator.api_key}, timeout=10)
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("envelope", "keys"),
    [
        ("items", ["Items", "NextPageLink", "Count"]),
        ("items-lower", ["items", "nextPageLink", "count"]),
        ("value", ["@odata.context", "value"]),
        ("array", None),
    ],
)
def test_the_whole_instance_may_use_another_envelope(simulator_factory, envelope, keys) -> None:
    simulator = simulator_factory(envelope=envelope)
    for path in ("/studies/odata", "/elements/odata", "/sites", "/system/lookup-lists"):
        body = get(simulator, path, top=1000).json()
        assert (list(body) if isinstance(body, dict) else None) == keys
    assert "instanceUID" in get(simulator, "/instance/details").json()

"""The catalog, against the job inventory of the system it replaces: written out here a second time, on purpose."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from clinical_conductor.catalog import (
    BY_CONTENT,
    BY_ID,
    BY_JOB_ID,
    BY_VALUE,
    CATEGORIES,
    ENDPOINTS,
    SINGLE,
    dependency_order,
    depth,
    fill_path,
    find_endpoint,
    join_key,
    split_key,
)
from clinical_conductor.errors import ConfigurationError

# job, resource, path below /api/v1/, table without _staging
INVENTORY = """
1 sites sites dim_sites
2 studies studies/odata dim_studies
3 patients patients/odata dim_patients
4 users users/odata dim_users
5 roles roles/odata dim_roles
6 departments departments/odata dim_departments
7 audits audits/odata dim_audits
8 elements elements/odata dim_elements
9 patient_visits patient-visits/odata dim_patient_visits
10 subjects studies/{studyId}/subjects/odata dim_subjects
11 visits studies/{studyId}/visits/odata dim_visits
12 forms studies/{studyId}/forms/odata dim_forms
13 study_documents studies/{studyId}/documents/odata dim_study_documents
14 screenings studies/{studyId}/screenings/odata dim_screenings
15 enrollments studies/{studyId}/enrollments/odata dim_enrollments
16 randomizations studies/{studyId}/randomizations/odata dim_randomizations
17 withdrawals studies/{studyId}/withdrawals/odata dim_withdrawals
18 protocol_deviations studies/{studyId}/protocol-deviations/odata dim_protocol_deviations
19 adverse_events studies/{studyId}/adverse-events/odata dim_adverse_events
20 concomitant_medications studies/{studyId}/concomitant-medications/odata dim_concomitant_medications
21 lab_results studies/{studyId}/lab-results/odata dim_lab_results
22 vitals studies/{studyId}/vitals/odata dim_vitals
23 queries studies/{studyId}/queries/odata dim_queries
24 patient_visit_elements patient-visits/{patientVisitId}/elements/odata dim_patient_visit_elements
25 appointments appointments/odata dim_appointments
26 staff staff/odata dim_staff
27 study_actions studies/{studyId}/actions/odata dim_study_actions
28 study_milestones studies/{studyId}/milestones/odata fact_study_milestones
29 study_notes studies/{studyId}/notes/odata fact_study_documents
30 monitor_queries monitor-queries/odata dim_monitor_queries
31 engagements engagements/odata dim_engagements
32 providers providers/odata dim_providers
33 rooms rooms/odata dim_rooms
34 schedules schedules/odata dim_schedules
35 sponsors sponsors/odata dim_sponsors
120 system_allergies system/allergies/odata dim_system_allergies
121 system_conditions system/conditions/odata dim_system_conditions
122 system_medications system/medications/odata dim_system_medications
123 system_procedures system/procedures/odata dim_system_procedures
124 system_immunizations system/immunizations/odata dim_system_immunizations
125 system_devices system/devices/odata dim_system_devices
126 system_social_history system/social-history/odata dim_system_social_history
127 subject_statuses subject-statuses/odata dim_subject_statuses
128 system_document_types system/document-types dim_system_document_types
129 system_action_categories system/action-categories dim_system_action_categories
130 system_study_categories system/study-categories dim_system_study_categories
131 system_study_subcategories system/study-subcategories dim_system_study_subcategories
132 system_study_statuses system/study-statuses/odata dim_system_study_statuses
133 system_lookup_lists system/lookup-lists dim_system_lookup_lists
134 system_patient_custom_fields system/patient-customfields dim_system_patient_customfields
135 system_study_custom_fields system/study-customfields dim_system_study_customfields
136 system_organizations system/organizations dim_system_organizations
137 sponsor_divisions sponsor-divisions dim_sponsor_divisions
138 sponsor_teams sponsor-teams dim_sponsor_teams
139 monitors monitors dim_monitors
140 room_groups room-groups dim_room_groups
141 study_arms studies/{studyId}/arms dim_study_arms
142 study_protocol_versions studies/{studyId}/protocol-versions dim_study_protocol_versions
143 study_roles studies/{studyId}/roles dim_study_roles
144 study_personnel studies/{studyId}/personnel dim_study_personnel
145 study_warnings studies/{studyId}/warnings dim_study_warnings
146 study_integration_info studies/{studyId}/integration-info dim_study_integration_info
147 patient_devices patients/{patientId}/devices dim_patient_devices
148 patient_allergies patients/{patientId}/allergies dim_patient_allergies
149 patient_providers patients/{patientId}/providers dim_patient_providers
150 patient_conditions patients/{patientId}/conditions dim_patient_conditions
151 patient_procedures patients/{patientId}/procedures dim_patient_procedures
152 patient_medications patients/{patientId}/medications dim_patient_medications
153 patient_immunizations patients/{patientId}/immunizations dim_patient_immunizations
154 patient_family_history patients/{patientId}/family-history dim_patient_family_history
155 patient_social_history patients/{patientId}/social-history dim_patient_social_history
156 patient_campaign_touches patients/{patientId}/touches/campaign dim_patient_campaign_touches
157 patient_referral_touches patients/{patientId}/touches/referral dim_patient_referral_touches
158 instance_details instance/details dim_instance_details
159 instance_topology instance/topology dim_instance_topology
160 subject_patient_visits studies/{studyId}/subjects/{subjectId}/patient-visits dim_patient_visits
161 patient_visit_stipends patient-visits/{patientVisitId}/stipends/odata dim_patient_visit_stipends
164 studies_list studies dim_studies
165 study_detail studies/{studyId} dim_study_detail
166 visit_elements patient-visits/{patientVisitId}/elements/odata dim_visit_elements
167 action_unit_completions action-unit-completions/odata dim_action_unit_completions
168 invoices invoices/odata dim_invoices
169 prospects prospects/odata dim_prospects
170 remittances remittances/odata dim_remittances
171 remittance_notes remittance-notes/odata dim_remittance_notes
172 site_payments site-payments/odata dim_site_payments
173 study_types study-types dim_study_types
174 study_visit_arms studies/{studyId}/visit-arms/odata dim_study_visit_arms
175 visit_elements_by_study studies/{studyId}/visit-elements/odata dim_visit_element_relationships
176 patient_payments patient-payments/odata dim_patient_payments
"""

CORRECTED = {
    23: "studies/{studyId}/monitor-queries/odata",
    132: "system/study-statuses",
    174: "studies/{studyId}/visits/{visitId}/arms",
    175: "studies/{studyId}/visits/{visitId}/elements/odata",
}
"""Paths of the inventory that the API does not have, and what it has instead."""

NOT_THERE = {4, 5, 6, 7, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22}
ONLY_ON_CCE = {30, 31}

OTHER_KEYS = {
    127: BY_CONTENT,
    133: BY_VALUE,
    145: BY_CONTENT,
    146: SINGLE,
    158: SINGLE,
    159: SINGLE,
}
"""Endpoints whose records have no id; 144 and 175 are keyed by other fields."""

ROWS = [line.split() for line in INVENTORY.strip().splitlines()]


def test_the_inventory_has_ninety_jobs() -> None:
    assert len(ROWS) == 90
    assert {int(job) for job, *_ in ROWS} == set(BY_JOB_ID)
    assert len(ENDPOINTS) == 90


@pytest.mark.parametrize(("job", "resource", "path", "table"), ROWS, ids=[row[1] for row in ROWS])
def test_every_job_is_in_the_catalog_as_the_inventory_has_it(job: str, resource: str, path: str, table: str) -> None:
    row = BY_JOB_ID[int(job)]
    assert row.resource == resource
    assert ENDPOINTS[resource] is row
    assert row.path == f"/api/v1/{CORRECTED.get(row.job_id, path)}"
    assert row.table == f"{table}_staging"
    assert row.category in CATEGORIES


def test_seventy_four_jobs_are_active_and_the_others_say_why_not() -> None:
    assert {row.job_id for row in ENDPOINTS.values() if not row.active} == NOT_THERE | ONLY_ON_CCE
    assert sum(row.active for row in ENDPOINTS.values()) == 74
    assert all("501" in (BY_JOB_ID[job].inactive or "") for job in ONLY_ON_CCE)
    assert all("no such endpoint" in (BY_JOB_ID[job].inactive or "") for job in NOT_THERE)


def test_corrected_paths_differ_from_the_inventory() -> None:
    for job, _, path, _ in ROWS:
        if int(job) in CORRECTED:
            assert path != CORRECTED[int(job)]


def test_paths_that_the_vendor_spells_differently_carry_the_other_spelling() -> None:
    for resource in ("patient_visit_elements", "visit_elements", "patient_visit_stipends"):
        row = ENDPOINTS[resource]
        assert row.paths == (row.path, row.path.removesuffix("/odata"))


def test_each_table_has_exactly_one_owner_and_one_key_rule() -> None:
    tables = defaultdict(list)
    for row in ENDPOINTS.values():
        tables[row.table].append(row)
    assert len(tables) == 88
    shared = {table: {row.job_id for row in rows} for table, rows in tables.items() if len(rows) > 1}
    assert shared == {"dim_studies_staging": {2, 164}, "dim_patient_visits_staging": {9, 160}}
    for table, rows in tables.items():
        assert [row.owner for row in rows].count(True) == 1, table
        assert len({row.key for row in rows}) == 1, table
    assert {row.job_id for row in ENDPOINTS.values() if row.owner} >= {2, 9}


def test_keys_are_the_id_except_where_the_records_have_none() -> None:
    for row in ENDPOINTS.values():
        if row.job_id not in (144, 175):
            assert row.key == OTHER_KEYS.get(row.job_id, BY_ID), row.resource
    assert BY_JOB_ID[144].key.fields == ("Role.Id",)
    assert BY_JOB_ID[175].key.fields == ("visit.id", "element.id")
    assert {row.job_id for row in ENDPOINTS.values() if row.single} == {146, 158, 159, 165}


def test_parents_fill_every_parameter() -> None:
    for row in ENDPOINTS.values():
        if row.parent is None:
            assert row.parameters == ()
            continue
        parent = ENDPOINTS[row.parent]
        # A parent's key is what stands in its own path plus its id, unless its ids are unique on their own.
        assert 1 <= len(row.parameters) <= len(parent.parameters) + 1, row.resource
        assert parent.active or not row.active, row.resource
    two_levels = {row.resource for row in ENDPOINTS.values() if len(row.parameters) == 2}
    assert two_levels == {"subject_patient_visits", "study_visit_arms", "visit_elements_by_study"}


def test_no_job_needs_itself_and_parents_come_first() -> None:
    ordered = [row.resource for row in dependency_order(ENDPOINTS.values())]
    assert sorted(ordered) == sorted(ENDPOINTS)
    for row in ENDPOINTS.values():
        assert depth(row) <= 2
        if row.parent is not None:
            assert ordered.index(row.parent) < ordered.index(row.resource)
        if not row.owner:
            owner = next(other for other in ENDPOINTS.values() if other.table == row.table and other.owner)
            assert ordered.index(owner.resource) < ordered.index(row.resource)


def test_resource_names_are_snake_case_and_cursors_only_where_odata_filters() -> None:
    for row in ENDPOINTS.values():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", row.resource)
        assert not row.cursor or row.odata
        assert row.bulk is None or row.bulk.path.endswith("/odata")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("studis", "Did you mean 'studies'?"),
        ("Patient-Visits", "Did you mean 'patient_visits'?"),
        ("qqqqqq", "There is no resource 'qqqqqq'. `trialsync-etl list`"),
        ("162", "There is no job 162."),
        (999, "There is no job 999."),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_one(given: str | int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        find_endpoint(given)


def test_names_and_ids_find_the_same_row() -> None:
    assert find_endpoint("studies") is find_endpoint(2) is find_endpoint(" 2 ")


@pytest.mark.parametrize("parts", [(), ("1",), ("12", "345"), ("a/b", "50%"), ("%2F", "/"), ("ä ö", "x")])
def test_joined_keys_split_into_what_they_were(parts: tuple[str, ...]) -> None:
    assert split_key(join_key(parts)) == parts


def test_values_in_a_path_cannot_leave_their_place() -> None:
    assert fill_path("/studies/{studyId}/arms", ("../1?x=#",)) == "/studies/..%2F1%3Fx%3D%23/arms"
    with pytest.raises(ValueError, match="takes fewer than 2 values"):
        fill_path("/studies/{studyId}/arms", ("1", "2"))

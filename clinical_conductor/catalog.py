"""ENDPOINTS: the catalog. One declarative row per endpoint, and nothing else written anywhere else.

Adding an endpoint is adding a row. A row says where the endpoint is, which staging table it fills, how its records are
keyed, whose children they are, and whether it is active or why not. The job ids are those of the existing deployment.

Where a fact comes from: paths and tables from the job inventory of the existing system, corrected where the vendor's
published OpenAPI document (Swagger 2.0) shows another path; keys and shapes from that document's models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Literal
from urllib.parse import quote, unquote

from clinical_conductor.errors import ConfigurationError

Category = Literal["sites", "studies", "patients", "subjects", "visits", "finance", "system", "instance"]
CATEGORIES: tuple[Category, ...] = (
    "sites",
    "studies",
    "patients",
    "subjects",
    "visits",
    "finance",
    "system",
    "instance",
)


@dataclass(frozen=True, slots=True)
class Key:
    """How a record's source_id is made.

    - "fields": the literal text of the named fields (dotted for nested ones), joined by "/" when there are several.
      `id` also matches `Id`, because the API spells it both ways.
    - "content": a hash of the record's canonical JSON, for records that have no identity of their own. A changed
      record is then a deletion and an insertion.
    - "value": the record is a bare string and is its own key.
    - "single": the endpoint answers one object; its key is its parent's key, or "instance".
    """

    rule: Literal["fields", "content", "value", "single"] = "fields"
    fields: tuple[str, ...] = ("id",)


BY_ID = Key()
BY_CONTENT = Key("content", ())
BY_VALUE = Key("value", ())
SINGLE = Key("single", ())


@dataclass(frozen=True, slots=True)
class BulkRoute:
    """One paginated listing that replaces a request per parent; `parent_fields` name the parent inside the record."""

    path: str
    parent_fields: tuple[str, ...]


@dataclass(frozen=True)
class Endpoint:
    """One row of the catalog.

    `path` may hold parameters in braces; they are filled, from the right, with the key parts of a row of `parent`
    (a study's subject is keyed by ("12", "345"): the study and the subject). The values in the path, joined by
    `join_key`, are the child's `parent_source_id`.
    """

    job_id: int
    name: str
    """The inventory's own name, as dw_etl_jobs.name holds it."""
    path: str
    table: str
    category: Category
    key: Key = BY_ID
    parent: str | None = None
    """Resource whose staged rows give the path's parameters."""
    alternate: str | None = None
    """The same endpoint's other known path (the vendor's spelling, or the inventory's); tried when `path` is a 404."""
    cursor: tuple[str, ...] = ()
    """Candidates for the incremental cursor, best first; which one an instance really has is found by asking."""
    bulk: BulkRoute | None = None
    parent_fields: tuple[str, ...] = ()
    """For a listing into a table that a fan-out also fills: where the record names its parent."""
    single: bool = False
    """The endpoint answers one object and no list."""
    owner: bool = True
    """Of the jobs that share a table, exactly one owns it and may delete from it."""
    inactive: str | None = None
    """Why the job is switched off; None for an active one."""
    resource_name: str | None = None

    @cached_property
    def resource(self) -> str:
        """The dlt resource's name: the job's name in snake_case."""
        return self.resource_name or snake_case(self.name)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names in braces, in the order of the path; () for a listing."""
        return tuple(re.findall(r"{(\w+)}", self.path))

    @property
    def active(self) -> bool:
        """Whether a run of all jobs includes this one, before dw_etl_jobs has its say."""
        return self.inactive is None

    @property
    def odata(self) -> bool:
        """Whether the endpoint takes $top, $filter and the like: those whose path ends in /odata do."""
        return self.path.endswith("/odata")

    @property
    def paths(self) -> tuple[str, ...]:
        """`path`, then the alternate one if there is any."""
        return (self.path,) if self.alternate is None else (self.path, self.alternate)

    def at(self, path: str | None) -> Endpoint:
        """The endpoint at the path that an operator gave it, if any: its alternate one trades places with `path`."""
        if not path or path == self.path:
            return self
        return replace(self, path=path, alternate=self.path if path == self.alternate else None)


def snake_case(name: str) -> str:
    """A job's name in snake_case.

    >>> snake_case("Study Protocol Versions"), snake_case("StudyDocuments")
    ('study_protocol_versions', 'study_documents')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace(" ", "_").lower()


def join_key(parts: Iterable[str]) -> str:
    """Key parts as one text: joined by "/", with "/" and "%" inside a part percent-encoded.

    >>> join_key(["12", "345"]), join_key(["a/b"]), join_key([])
    ('12/345', 'a%2Fb', '')
    """
    return "/".join(p.replace("%", "%25").replace("/", "%2F") for p in parts)


def split_key(key: str) -> tuple[str, ...]:
    """The parts that `join_key` joined.

    >>> split_key("12/345"), split_key("a%2Fb"), split_key("")
    (('12', '345'), ('a/b',), ())
    """
    return tuple(unquote(p) for p in key.split("/")) if key else ()


def fill_path(path: str, values: tuple[str, ...]) -> str:
    """`path` with its parameters replaced by `values`, percent-encoded, in order.

    Raises:
        ValueError: there are not as many values as parameters.

    >>> fill_path("/api/v1/studies/{studyId}/arms", ("12",))
    '/api/v1/studies/12/arms'
    """
    rest = iter(values)
    filled = re.sub(r"{\w+}", lambda _: quote(next(rest), safe=""), path)
    if next(rest, None) is not None:
        raise ValueError(f"{path} takes fewer than {len(values)} values")
    return filled


_MODIFIED = ("modifiedDate",)
_STUDIES_ODATA = ("modifiedDate", "lastUpdatedOn")
_NOT_THERE = "the API has no such endpoint"
_CCE_ONLY = "answers 501 on CCS; it exists on CCE only"

_V1 = "/api/v1"
_STUDY = f"{_V1}/studies/{{studyId}}"
_PATIENT = f"{_V1}/patients/{{patientId}}"
_VISIT = f"{_V1}/patient-visits/{{patientVisitId}}"
_SYSTEM = f"{_V1}/system"

_ROWS: tuple[Endpoint, ...] = (
    Endpoint(1, "Sites", f"{_V1}/sites", "dim_sites_staging", "sites", alternate=f"{_V1}/sites/odata"),
    Endpoint(2, "Studies", f"{_V1}/studies/odata", "dim_studies_staging", "studies", cursor=_STUDIES_ODATA),
    Endpoint(3, "Patients", f"{_V1}/patients/odata", "dim_patients_staging", "patients", cursor=_MODIFIED),
    Endpoint(4, "Users", f"{_V1}/users/odata", "dim_users_staging", "system", inactive=_NOT_THERE),
    Endpoint(5, "Roles", f"{_V1}/roles/odata", "dim_roles_staging", "system", inactive=_NOT_THERE),
    Endpoint(6, "Departments", f"{_V1}/departments/odata", "dim_departments_staging", "system", inactive=_NOT_THERE),
    Endpoint(7, "Audits", f"{_V1}/audits/odata", "dim_audits_staging", "system", inactive=_NOT_THERE),
    Endpoint(8, "Elements", f"{_V1}/elements/odata", "dim_elements_staging", "visits", cursor=_MODIFIED),
    Endpoint(
        9,
        "PatientVisits",
        f"{_V1}/patient-visits/odata",
        "dim_patient_visits_staging",
        "visits",
        cursor=_MODIFIED,
        parent_fields=("study.id", "subject.Id"),
    ),
    Endpoint(
        10,
        "Subjects",
        f"{_STUDY}/subjects/odata",
        "dim_subjects_staging",
        "subjects",
        parent="studies",
        cursor=_MODIFIED,
        bulk=BulkRoute(f"{_V1}/subjects/odata", ("study.id",)),
    ),
    Endpoint(
        11,
        "Visits",
        f"{_STUDY}/visits/odata",
        "dim_visits_staging",
        "visits",
        parent="studies",
        cursor=_MODIFIED,
        bulk=BulkRoute(f"{_V1}/visits/odata", ("study.id",)),
    ),
    Endpoint(
        12, "Forms", f"{_STUDY}/forms/odata", "dim_forms_staging", "studies", parent="studies", inactive=_NOT_THERE
    ),
    Endpoint(
        13,
        "StudyDocuments",
        f"{_STUDY}/documents/odata",
        "dim_study_documents_staging",
        "studies",
        parent="studies",
        cursor=_MODIFIED,
    ),
    Endpoint(
        14,
        "Screenings",
        f"{_STUDY}/screenings/odata",
        "dim_screenings_staging",
        "subjects",
        parent="studies",
        inactive=_NOT_THERE,
    ),
    Endpoint(
        15,
        "Enrollments",
        f"{_STUDY}/enrollments/odata",
        "dim_enrollments_staging",
        "subjects",
        parent="studies",
        inactive=_NOT_THERE,
    ),
    Endpoint(
        16,
        "Randomizations",
        f"{_STUDY}/randomizations/odata",
        "dim_randomizations_staging",
        "subjects",
        parent="studies",
        inactive=_NOT_THERE,
    ),
    Endpoint(
        17,
        "Withdrawals",
        f"{_STUDY}/withdrawals/odata",
        "dim_withdrawals_staging",
        "subjects",
        parent="studies",
        inactive=_NOT_THERE,
    ),
    Endpoint(
        18,
        "ProtocolDeviations",
        f"{_STUDY}/protocol-deviations/odata",
        "dim_protocol_deviations_staging",
        "studies",
        parent="studies",
        inactive=_NOT_THERE,
    ),
    Endpoint(
        19,
        "AdverseEvents",
        f"{_STUDY}/adverse-events/odata",
        "dim_adverse_events_staging",
        "subjects",
        parent="studies",
        inactive=_NOT_THERE,
    ),
    Endpoint(
        20,
        "ConcomitantMedications",
        f"{_STUDY}/concomitant-medications/odata",
        "dim_concomitant_medications_staging",
        "subjects",
        parent="studies",
        inactive=_NOT_THERE,
    ),
    Endpoint(
        21,
        "LabResults",
        f"{_STUDY}/lab-results/odata",
        "dim_lab_results_staging",
        "subjects",
        parent="studies",
        inactive=_NOT_THERE,
    ),
    Endpoint(
        22, "Vitals", f"{_STUDY}/vitals/odata", "dim_vitals_staging", "subjects", parent="studies", inactive=_NOT_THERE
    ),
    # The inventory says .../queries/odata, which does not exist.
    Endpoint(
        23,
        "Queries",
        f"{_STUDY}/monitor-queries/odata",
        "dim_queries_staging",
        "studies",
        parent="studies",
        cursor=_MODIFIED,
    ),
    Endpoint(
        24,
        "PatientVisitElements",
        f"{_VISIT}/elements/odata",
        "dim_patient_visit_elements_staging",
        "visits",
        parent="patient_visits",
        alternate=f"{_VISIT}/elements",
    ),
    Endpoint(25, "Appointments", f"{_V1}/appointments/odata", "dim_appointments_staging", "visits", cursor=_MODIFIED),
    Endpoint(26, "Staff", f"{_V1}/staff/odata", "dim_staff_staging", "sites", cursor=_MODIFIED),
    Endpoint(
        27,
        "StudyActions",
        f"{_STUDY}/actions/odata",
        "dim_study_actions_staging",
        "studies",
        parent="studies",
        cursor=_MODIFIED,
    ),
    Endpoint(
        28,
        "StudyMilestones",
        f"{_STUDY}/milestones/odata",
        "fact_study_milestones_staging",
        "studies",
        parent="studies",
        cursor=_MODIFIED,
    ),
    # The table's name is the existing deployment's own slip: it holds notes.
    Endpoint(
        29,
        "StudyNotes",
        f"{_STUDY}/notes/odata",
        "fact_study_documents_staging",
        "studies",
        parent="studies",
        cursor=_MODIFIED,
    ),
    Endpoint(
        30,
        "MonitorQueries",
        f"{_V1}/monitor-queries/odata",
        "dim_monitor_queries_staging",
        "studies",
        inactive=_CCE_ONLY,
    ),
    Endpoint(31, "Engagements", f"{_V1}/engagements/odata", "dim_engagements_staging", "studies", inactive=_CCE_ONLY),
    Endpoint(32, "Providers", f"{_V1}/providers/odata", "dim_providers_staging", "sites", cursor=_MODIFIED),
    Endpoint(33, "Rooms", f"{_V1}/rooms/odata", "dim_rooms_staging", "sites", cursor=_MODIFIED),
    Endpoint(34, "Schedules", f"{_V1}/schedules/odata", "dim_schedules_staging", "sites", cursor=_MODIFIED),
    Endpoint(35, "Sponsors", f"{_V1}/sponsors/odata", "dim_sponsors_staging", "studies", cursor=_MODIFIED),
    Endpoint(
        120,
        "System Allergies",
        f"{_SYSTEM}/allergies/odata",
        "dim_system_allergies_staging",
        "system",
        cursor=_MODIFIED,
    ),
    Endpoint(
        121,
        "System Conditions",
        f"{_SYSTEM}/conditions/odata",
        "dim_system_conditions_staging",
        "system",
        cursor=_MODIFIED,
    ),
    Endpoint(
        122,
        "System Medications",
        f"{_SYSTEM}/medications/odata",
        "dim_system_medications_staging",
        "system",
        cursor=_MODIFIED,
    ),
    Endpoint(
        123,
        "System Procedures",
        f"{_SYSTEM}/procedures/odata",
        "dim_system_procedures_staging",
        "system",
        cursor=_MODIFIED,
    ),
    Endpoint(
        124,
        "System Immunizations",
        f"{_SYSTEM}/immunizations/odata",
        "dim_system_immunizations_staging",
        "system",
        cursor=_MODIFIED,
    ),
    Endpoint(
        125, "System Devices", f"{_SYSTEM}/devices/odata", "dim_system_devices_staging", "system", cursor=_MODIFIED
    ),
    Endpoint(
        126,
        "System Social History",
        f"{_SYSTEM}/social-history/odata",
        "dim_system_social_history_staging",
        "system",
        cursor=_MODIFIED,
    ),
    # SubjectStatusModel has no id, and none of its fields is promised to be there.
    Endpoint(
        127,
        "Subject Statuses",
        f"{_V1}/subject-statuses/odata",
        "dim_subject_statuses_staging",
        "subjects",
        key=BY_CONTENT,
    ),
    Endpoint(128, "System Document Types", f"{_SYSTEM}/document-types", "dim_system_document_types_staging", "system"),
    Endpoint(
        129,
        "System Action Categories",
        f"{_SYSTEM}/action-categories",
        "dim_system_action_categories_staging",
        "system",
    ),
    Endpoint(
        130, "System Study Categories", f"{_SYSTEM}/study-categories", "dim_system_study_categories_staging", "system"
    ),
    Endpoint(
        131,
        "System Study Subcategories",
        f"{_SYSTEM}/study-subcategories",
        "dim_system_study_subcategories_staging",
        "system",
    ),
    Endpoint(
        132,
        "System Study Statuses",
        f"{_SYSTEM}/study-statuses",
        "dim_system_study_statuses_staging",
        "system",
        alternate=f"{_SYSTEM}/study-statuses/odata",
    ),
    Endpoint(
        133,
        "System Lookup Lists",
        f"{_SYSTEM}/lookup-lists",
        "dim_system_lookup_lists_staging",
        "system",
        key=BY_VALUE,
    ),
    Endpoint(
        134,
        "System Patient Custom Fields",
        f"{_SYSTEM}/patient-customfields",
        "dim_system_patient_customfields_staging",
        "system",
    ),
    Endpoint(
        135,
        "System Study Custom Fields",
        f"{_SYSTEM}/study-customfields",
        "dim_system_study_customfields_staging",
        "system",
    ),
    Endpoint(136, "System Organizations", f"{_SYSTEM}/organizations", "dim_system_organizations_staging", "system"),
    Endpoint(
        137,
        "Sponsor Divisions",
        f"{_V1}/sponsor-divisions",
        "dim_sponsor_divisions_staging",
        "studies",
        alternate=f"{_V1}/sponsor-divisions/odata",
    ),
    Endpoint(
        138,
        "Sponsor Teams",
        f"{_V1}/sponsor-teams",
        "dim_sponsor_teams_staging",
        "studies",
        alternate=f"{_V1}/sponsor-teams/odata",
    ),
    Endpoint(139, "Monitors", f"{_V1}/monitors", "dim_monitors_staging", "studies"),
    Endpoint(
        140,
        "Room Groups",
        f"{_V1}/room-groups",
        "dim_room_groups_staging",
        "sites",
        alternate=f"{_V1}/room-groups/odata",
    ),
    Endpoint(141, "Study Arms", f"{_STUDY}/arms", "dim_study_arms_staging", "studies", parent="studies"),
    Endpoint(
        142,
        "Study Protocol Versions",
        f"{_STUDY}/protocol-versions",
        "dim_study_protocol_versions_staging",
        "studies",
        parent="studies",
    ),
    Endpoint(143, "Study Roles", f"{_STUDY}/roles", "dim_study_roles_staging", "studies", parent="studies"),
    Endpoint(
        144,
        "Study Personnel",
        f"{_STUDY}/personnel",
        "dim_study_personnel_staging",
        "studies",
        key=Key(fields=("Role.Id",)),
        parent="studies",
    ),
    # The visit and the element of a warning are optional, so nothing but its content tells two warnings apart.
    Endpoint(
        145,
        "Study Warnings",
        f"{_STUDY}/warnings",
        "dim_study_warnings_staging",
        "studies",
        key=BY_CONTENT,
        parent="studies",
    ),
    Endpoint(
        146,
        "Study Integration Info",
        f"{_STUDY}/integration-info",
        "dim_study_integration_info_staging",
        "studies",
        key=SINGLE,
        parent="studies",
        single=True,
    ),
    Endpoint(
        147, "Patient Devices", f"{_PATIENT}/devices", "dim_patient_devices_staging", "patients", parent="patients"
    ),
    Endpoint(
        148,
        "Patient Allergies",
        f"{_PATIENT}/allergies",
        "dim_patient_allergies_staging",
        "patients",
        parent="patients",
    ),
    Endpoint(
        149,
        "Patient Providers",
        f"{_PATIENT}/providers",
        "dim_patient_providers_staging",
        "patients",
        parent="patients",
    ),
    Endpoint(
        150,
        "Patient Conditions",
        f"{_PATIENT}/conditions",
        "dim_patient_conditions_staging",
        "patients",
        parent="patients",
    ),
    Endpoint(
        151,
        "Patient Procedures",
        f"{_PATIENT}/procedures",
        "dim_patient_procedures_staging",
        "patients",
        parent="patients",
    ),
    Endpoint(
        152,
        "Patient Medications",
        f"{_PATIENT}/medications",
        "dim_patient_medications_staging",
        "patients",
        parent="patients",
    ),
    Endpoint(
        153,
        "Patient Immunizations",
        f"{_PATIENT}/immunizations",
        "dim_patient_immunizations_staging",
        "patients",
        parent="patients",
    ),
    Endpoint(
        154,
        "Patient Family History",
        f"{_PATIENT}/family-history",
        "dim_patient_family_history_staging",
        "patients",
        parent="patients",
    ),
    Endpoint(
        155,
        "Patient Social History",
        f"{_PATIENT}/social-history",
        "dim_patient_social_history_staging",
        "patients",
        parent="patients",
    ),
    Endpoint(
        156,
        "Patient Campaign Touches",
        f"{_PATIENT}/touches/campaign",
        "dim_patient_campaign_touches_staging",
        "patients",
        parent="patients",
    ),
    Endpoint(
        157,
        "Patient Referral Touches",
        f"{_PATIENT}/touches/referral",
        "dim_patient_referral_touches_staging",
        "patients",
        parent="patients",
    ),
    Endpoint(
        158,
        "Instance Details",
        f"{_V1}/instance/details",
        "dim_instance_details_staging",
        "instance",
        key=SINGLE,
        single=True,
    ),
    Endpoint(
        159,
        "Instance Topology",
        f"{_V1}/instance/topology",
        "dim_instance_topology_staging",
        "instance",
        key=SINGLE,
        single=True,
    ),
    # The fan-out into the table that job 9 fills with one listing; job 9 owns it.
    Endpoint(
        160,
        "Subject Patient Visits",
        f"{_STUDY}/subjects/{{subjectId}}/patient-visits",
        "dim_patient_visits_staging",
        "visits",
        parent="subjects",
        owner=False,
    ),
    Endpoint(
        161,
        "Patient Visit Stipends",
        f"{_VISIT}/stipends/odata",
        "dim_patient_visit_stipends_staging",
        "finance",
        parent="patient_visits",
        alternate=f"{_VISIT}/stipends",
    ),
    Endpoint(164, "Studies List", f"{_V1}/studies", "dim_studies_staging", "studies", owner=False),
    Endpoint(
        165,
        "Study Detail",
        f"{_V1}/studies/{{studyId}}",
        "dim_study_detail_staging",
        "studies",
        parent="studies",
        single=True,
    ),
    # Named like job 24 in the inventory, but with a table of its own.
    Endpoint(
        166,
        "Patient Visit Elements",
        f"{_VISIT}/elements/odata",
        "dim_visit_elements_staging",
        "visits",
        parent="patient_visits",
        alternate=f"{_VISIT}/elements",
        resource_name="visit_elements",
    ),
    Endpoint(
        167,
        "Action Unit Completions",
        f"{_V1}/action-unit-completions/odata",
        "dim_action_unit_completions_staging",
        "finance",
        cursor=_MODIFIED,
    ),
    Endpoint(168, "Invoices", f"{_V1}/invoices/odata", "dim_invoices_staging", "finance", cursor=_MODIFIED),
    Endpoint(169, "Prospects", f"{_V1}/prospects/odata", "dim_prospects_staging", "patients", cursor=_MODIFIED),
    Endpoint(170, "Remittances", f"{_V1}/remittances/odata", "dim_remittances_staging", "finance", cursor=_MODIFIED),
    Endpoint(
        171,
        "Remittance Notes",
        f"{_V1}/remittance-notes/odata",
        "dim_remittance_notes_staging",
        "finance",
        cursor=_MODIFIED,
    ),
    Endpoint(
        172, "Site Payments", f"{_V1}/site-payments/odata", "dim_site_payments_staging", "finance", cursor=_MODIFIED
    ),
    Endpoint(173, "Study Types", f"{_V1}/study-types", "dim_study_types_staging", "studies"),
    # The inventory says .../visit-arms/odata, which does not exist: arms belong to a study's visit.
    Endpoint(
        174,
        "Study Visit Arms",
        f"{_STUDY}/visits/{{visitId}}/arms",
        "dim_study_visit_arms_staging",
        "studies",
        parent="visits",
    ),
    # The inventory says .../visit-elements/odata, which does not exist either. The relationship has no id of its own.
    Endpoint(
        175,
        "Visit Elements by Study",
        f"{_STUDY}/visits/{{visitId}}/elements/odata",
        "dim_visit_element_relationships_staging",
        "visits",
        key=Key(fields=("visit.id", "element.id")),
        parent="visits",
    ),
    Endpoint(
        176,
        "Patient Payments",
        f"{_V1}/patient-payments/odata",
        "dim_patient_payments_staging",
        "finance",
        cursor=_MODIFIED,
    ),
)

ENDPOINTS: Mapping[str, Endpoint] = {row.resource: row for row in _ROWS}
"""Every endpoint by its resource name, in the order of the inventory."""

BY_JOB_ID: Mapping[int, Endpoint] = {row.job_id: row for row in _ROWS}
"""The same rows by job id."""


def find_endpoint(name_or_id: str | int) -> Endpoint:
    """The catalog row for a resource name or a job id.

    Raises:
        ConfigurationError: there is none; the message suggests the nearest name.
    """
    text = str(name_or_id).strip()
    if text.isdecimal():
        if int(text) in BY_JOB_ID:
            return BY_JOB_ID[int(text)]
        raise ConfigurationError(f"There is no job {text}. `trialsync-etl list` shows all of them.")
    if text in ENDPOINTS:
        return ENDPOINTS[text]
    near = get_close_matches(text.lower().replace("-", "_").replace(" ", "_"), ENDPOINTS, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ConfigurationError(f"There is no resource {text!r}. {hint}`trialsync-etl list` shows all of them.")


def dependency_order(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """The same endpoints, parents before children, and a table's owner before the other routes into it."""
    chosen = list(endpoints)
    rank = {row.job_id: i for i, row in enumerate(_ROWS)}
    return sorted(chosen, key=lambda row: (depth(row), not row.owner, rank[row.job_id]))


def depth(endpoint: Endpoint) -> int:
    """How many parents stand above an endpoint: 0 for a listing, 2 for studies → subjects → patient visits."""
    return 0 if endpoint.parent is None else 1 + depth(ENDPOINTS[endpoint.parent])

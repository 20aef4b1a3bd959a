"""The paths of the simulated API: one row per path, with the table behind it.

`known_from` says who knows the path: "spec" (the vendor's published document), "inventory" (the job list of an existing
deployment) or "both"; an instance can be told to serve only the one or the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from clinical_conductor.simulator.shapes import TABLES

KnownFrom = Literal["both", "spec", "inventory"]


@dataclass(frozen=True)
class Route:
    """One path. The values of its parameters name a row of each of `parents`, the outermost first."""

    path: str
    table: str
    resources: tuple[str, ...] = ()
    """The resources of the product that read this path, the main one first."""
    known_from: KnownFrom = "both"
    parents: tuple[str, ...] = ()
    bare: bool = False
    """The published answer is a bare array, although the path ends in /odata."""
    row: bool = False
    """The last parameter names a row of the table itself, which is the whole answer."""
    not_offered: bool = False
    """Answers 501 on this edition."""

    @cached_property
    def odata(self) -> bool:
        """Whether the path takes $top, $filter and the like."""
        return self.path.endswith("/odata")

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the path, its parameters as groups."""
        return re.compile("/api/v1" + re.sub(r"{\w+}", "([^/]+)", self.path))

    @property
    def single(self) -> bool:
        """Whether the answer is one object."""
        return self.row or TABLES[self.table].single


_STUDY, _PATIENT, _VISIT = "/studies/{studyId}", "/patients/{patientId}", "/patient-visits/{patientVisitId}"


def _plain(path: str, table: str, *resources: str, known_from: KnownFrom = "both", bare: bool = False) -> Route:
    return Route(path, table, resources or (table,), known_from, bare=bare)


def _study(path: str, table: str, *resources: str, visit: bool = False) -> Route:
    parents = ("studies", "visits") if visit else ("studies",)
    return Route(f"{_STUDY}{path}", table, resources or (table,), parents=parents)


def _patient(path: str, table: str) -> Route:
    return Route(f"{_PATIENT}/{path}", table, (table,), parents=("patients",))


def _visit(path: str, table: str, *resources: str, known_from: KnownFrom) -> Route:
    return Route(f"{_VISIT}/{path}", table, resources or (table,), known_from, parents=("patient_visits",))


ROUTES: tuple[Route, ...] = (
    _plain("/sites", "sites"),
    _plain("/sites/odata", "sites", known_from="spec", bare=True),
    _plain("/studies/odata", "studies", bare=True),
    _plain("/studies", "studies", "studies_list"),
    Route(_STUDY, "studies", ("study_detail",), parents=("studies",), row=True),
    _plain("/patients/odata", "patients", bare=True),
    _plain("/elements/odata", "elements"),
    _plain("/patient-visits/odata", "patient_visits"),
    _study("/subjects/odata", "subjects"),
    _plain("/subjects/odata", "subjects", "", known_from="spec"),
    _study("/visits/odata", "visits"),
    _plain("/visits/odata", "visits", "", known_from="spec"),
    _study("/documents/odata", "study_documents"),
    _study("/monitor-queries/odata", "monitor_queries", "queries"),
    _visit(
        "elements/odata", "patient_visit_elements", "patient_visit_elements", "visit_elements", known_from="inventory"
    ),
    _visit("elements", "patient_visit_elements", "patient_visit_elements", "visit_elements", known_from="spec"),
    _plain("/appointments/odata", "appointments"),
    _plain("/staff/odata", "staff", bare=True),
    _study("/actions/odata", "study_actions"),
    _study("/milestones/odata", "study_milestones"),
    _study("/notes/odata", "study_notes"),
    Route("/monitor-queries/odata", "monitor_queries", not_offered=True),
    Route("/engagements/odata", "studies", not_offered=True),
    _plain("/providers/odata", "providers"),
    _plain("/rooms/odata", "rooms"),
    _plain("/schedules/odata", "schedules"),
    _plain("/sponsors/odata", "sponsors"),
    _plain("/system/allergies/odata", "system_allergies"),
    _plain("/system/conditions/odata", "system_conditions"),
    _plain("/system/medications/odata", "system_medications"),
    _plain("/system/procedures/odata", "system_procedures"),
    _plain("/system/immunizations/odata", "system_immunizations"),
    _plain("/system/devices/odata", "system_devices"),
    _plain("/system/social-history/odata", "system_social_history"),
    _plain("/subject-statuses/odata", "subject_statuses"),
    _plain("/system/document-types", "document_types", "system_document_types"),
    _plain("/system/action-categories", "action_categories", "system_action_categories"),
    _plain("/system/study-categories", "study_categories", "system_study_categories"),
    _plain("/system/study-subcategories", "study_subcategories", "system_study_subcategories"),
    _plain("/system/study-statuses", "study_statuses", "system_study_statuses", known_from="spec"),
    _plain("/system/study-statuses/odata", "study_statuses", "system_study_statuses", known_from="inventory"),
    _plain("/system/lookup-lists", "lookup_lists", "system_lookup_lists"),
    _plain("/system/patient-customfields", "patient_customfields", "system_patient_custom_fields"),
    _plain("/system/study-customfields", "study_customfields", "system_study_custom_fields"),
    _plain("/system/organizations", "organizations", "system_organizations"),
    _plain("/sponsor-divisions", "sponsor_divisions"),
    _plain("/sponsor-divisions/odata", "sponsor_divisions", known_from="spec"),
    _plain("/sponsor-teams", "sponsor_teams"),
    _plain("/sponsor-teams/odata", "sponsor_teams", known_from="spec"),
    _plain("/monitors", "monitors"),
    _plain("/room-groups", "room_groups"),
    _plain("/room-groups/odata", "room_groups", known_from="spec"),
    _study("/arms", "study_arms"),
    _study("/protocol-versions", "protocol_versions", "study_protocol_versions"),
    _study("/roles", "study_roles"),
    _study("/personnel", "study_personnel"),
    _study("/warnings", "study_warnings"),
    _study("/integration-info", "study_integration_info"),
    _patient("devices", "patient_devices"),
    _patient("allergies", "patient_allergies"),
    _patient("providers", "patient_providers"),
    _patient("conditions", "patient_conditions"),
    _patient("procedures", "patient_procedures"),
    _patient("medications", "patient_medications"),
    _patient("immunizations", "patient_immunizations"),
    _patient("family-history", "patient_family_history"),
    _patient("social-history", "patient_social_history"),
    _patient("touches/campaign", "patient_campaign_touches"),
    _patient("touches/referral", "patient_referral_touches"),
    _plain("/instance/details", "instance_details"),
    _plain("/instance/topology", "instance_topology"),
    Route(
        f"{_STUDY}/subjects/{{subjectId}}/patient-visits",
        "patient_visits",
        ("subject_patient_visits",),
        parents=("studies", "subjects"),
    ),
    _visit("stipends/odata", "patient_visit_stipends", known_from="inventory"),
    _visit("stipends", "patient_visit_stipends", known_from="spec"),
    _plain("/action-unit-completions/odata", "action_unit_completions", known_from="inventory"),
    _plain("/invoices/odata", "invoices", known_from="inventory"),
    _plain("/prospects/odata", "prospects", known_from="inventory"),
    _plain("/remittances/odata", "remittances", known_from="inventory"),
    _plain("/remittance-notes/odata", "remittance_notes", known_from="inventory"),
    _plain("/site-payments/odata", "site_payments"),
    _plain("/study-types", "study_types", known_from="inventory"),
    _study("/visits/{visitId}/arms", "study_visit_arms", visit=True),
    _study("/visits/{visitId}/elements/odata", "visit_element_relationships", "visit_elements_by_study", visit=True),
    _plain("/patient-payments/odata", "patient_payments", known_from="inventory"),
)

RECORD_PARENTS = {"patient_visits": ("studies", "subjects")}
"""Resources read from a listing whose records name their parents: these tables' ids make the parent's source id."""


def table_of(resource: str) -> str:
    """The table behind a resource; a table's own name is accepted too.

    Raises:
        KeyError: there is no such resource.
    """
    for route in ROUTES:
        if resource in route.resources:
            return route.table
    return TABLES[resource].name

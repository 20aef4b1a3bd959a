"""What the simulated instance holds: one declarative row per table, its records' fields, and the paths that serve it.

Field names and their order are the vendor's. How a shape is read stands in templates.py; `@table` is the preview of a
related row (`@staff/2` another one, `@studies.id` its id alone) and `#name` a function of relations.py.

This list knows nothing of the catalog (endpoints.py) on purpose: it is what the catalog is tested against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """One table of the instance.

    `rows` is its size at scale 1, or `per` the rows per row of `parent`; `least` and `least_per` are what it keeps at the
    smallest scale. A `big` table follows the scale in both directions, another one only downwards.
    """

    name: str
    shape: str
    rows: int = 0
    per: float = 0.0
    parent: str | None = None
    least: int = 20
    least_per: float = 0.0
    big: bool = False
    first_id: int = 1
    local: bool = False
    """Ids count from 1 within each parent, so they repeat across parents."""
    modified: bool = False
    """Records carry modifiedDate, where the instance has it at all."""
    label: str = "{id}"
    """The name, also shown in previews: "person", or a text with {id}, {n} (number within the parent) and pool names."""
    preview: str = "id uid name"
    grows: bool = True
    """Rows may appear and vanish by themselves, not only with their parent."""
    single: bool = False
    """One object, no list."""


PERSON = "id uid login firstName lastName displayName"
_LOOKUP = "id=key name=#label description=~words:2..6"
_CONTACT = (
    "url=?https://partner.example.org primaryEmail=email secondaryEmail=?email primaryPhone=phone"
    " secondaryPhone=?phone fax=?phone comment=~?words:2..9"
)
_ADDRESS = "address1=pool:street address2=?words:1..2 {more}city=pool:city state=pool:state"
_SCHEDULING = (
    " reference={ Type=Milestone|Action Id=int:1..5 Name=words:1..3 } schedulingMode=FixedDate|RelativeToMilestone"
)
_OFFSET = " offset=int:0..30 offsetUnits=Days|Weeks|Months windowMax=int:0..9 windowMin=int:0..9 windowUnits=Days|Weeks"
_PATIENT = (
    "id=key primarySite=@sites displayName=#label status=~Active|Inactive|OnHold|Deceased|Ineligible"
    " statusReason=~?words:2..5 phone1={ rawNumber=digits:10 number=phone outOfService=flag }"
    " phone2={ rawNumber=digits:10 number=phone outOfService=flag } phone3?={ rawNumber=digits:10 number=phone"
    " outOfService=flag } phone4=null activeStudies=#active_studies customFields=[{ name=Preferred_contact"
    " value=Morning|Evening|Weekend valueDate=?date:2021..2025 }] firstName=#first middleName=?pool:first"
    " lastName=#last phoneticName=null preferredName=?pool:first title=?Mr.|Ms.|Dr."
    " primaryEmail={ email=email doNotEmail=flag } secondaryEmail?={ email=email doNotEmail=flag }"
    " country=United_States address1=pool:street address2=?words:1..2 address3=null city=pool:city state=pool:state"
    " zip=digits:5 doNotMail=flag recruitmentTextOptIn=flag phoneTypeToText=None|Phone1|Phone2 fax=?phone"
    " dateOfBirth=#born dateOfDeath=null genderCode=#gender race=#race ethnicity=#ethnicity"
    " nativeLanguage=pool:language maritalStatus=?Single|Married|Divorced|Widowed"
    " weight={ value=money:95..260 unit=lbs } height={ value=money:58..77 unit=inches } ssn=null mrn=digits:8"
    " importId=?int:1..90000000000 importSourceId=?Legacy importPatientId=?digits:7 uid=uid"
    " primaryInsurance={ name=pool:insurer account=digits:9 } secondaryInsurance?={ name=pool:insurer account=digits:9 }"
    " managedMedicare=flag guardian?={ name=pool:last phone=phone email=email addressSameAsPatient=flag"
    " address1=pool:street address2=null city=pool:city state=pool:state zip=digits:5 relationshipToPatient=Parent|Child"
    " receivePatientPayments=flag } caregiverId=null caregiver=flag"
)
_PAYMENT = (
    "id=key patientVisitId=@patient_visits.id patientStudyId=@subjects.id"
    " patientStudyStatus=Screened|Randomized|Completed|FollowUp paymentMethod=Check|Cash|PaymentCard"
    " stipendType=Visit|Travel|Caregiver|Manual amount=money:10..250 paymentOn=time:2022..2025 paymentBy=@staff"
    " checkNumber=~?digits:6 transactionId=~digits:10"
)


def _system(name: str, rows: int, first_id: int, more: str = "", label: str = "{substance} {id}") -> Table:
    shape = "id=key name=#label " + (more or "description=~words:2..6")
    return Table(f"system_{name}", shape, rows=rows, first_id=first_id, label=label, preview="id name", modified=True)


def _of_patient(name: str, per: float, shape: str) -> Table:
    return Table(name, f"id=key {shape}", per=per, parent="patients", least=24, local=True, big=True)


_GENDER = "gender={ id=int:1..2 name=Any genderCode=Any }"
_CONDITION = (
    "condition={ id=@system_conditions.id name=@system_conditions.label icd10Code=pool:icd10 icd9Code=pool:icd9 }"
)
_DATES = "startDate=time:2018..2023 endDate=~?time:2024..2025"

_ROWS: tuple[Table, ...] = (
    Table(
        "sites",
        "id=key uid=uid name=#label active=flag description=~words:2..8 alternateName=?words:1..3 "
        + _ADDRESS.format(more="address3=null ")
        + " country=United_States zip=digits:5 primaryPhone=phone secondaryPhone=?phone primaryEmail=email"
        " secondaryEmail=?email url=null timeZone=Eastern_Standard_Time|Central_Standard_Time observesDST=flag"
        " organization=@organizations.label importSourceID=null createdOn=time:2015..2020",
        rows=40,
        first_id=11,
        label="{city} Research {id}",
    ),
    Table("organizations", "Id=key Name=~words:2..3", rows=1, label="Example Research", preview="Id Name", grows=False),
    Table(
        "staff",
        "id=key uid=uid displayName=#label staffRoles=[{ siteId=@sites.id siteUid=@sites.uid siteName=@sites.label"
        " roleId=int:1..9 roleName=Investigator|Coordinator|Recruiter principalInvestigator=flag subInvestigator=flag }]"
        " firstName=#first lastName=#last isStatusActive=~flag profession=pool:profession login=#login email=email"
        " isStaffExternal=flag",
        rows=884,
        first_id=2001,
        label="person",
        preview=PERSON,
        modified=True,
    ),
    Table(
        "providers",
        _ADDRESS.format(more="")
        + " zip=digits:5 country=United_States primaryPhone=~phone secondaryPhone=?phone primaryEmail=email"
        " secondaryEmail=?email business=flag providerType={ description=?words:2..4 primaryCarePhysician=flag"
        " id=int:1..6 name=Physician|Clinic|Hospital } id=key providerName=#label title=?Dr.|Prof. firstName=#first"
        " middleName=null lastName=#last",
        rows=149,
        first_id=3001,
        label="person",
        preview="id name",
        modified=True,
    ),
    Table(
        "schedules",
        "id=key name=#label comment=~?words:2..6 active=flag",
        rows=10,
        label="Schedule {id}",
        preview="id name",
        modified=True,
        grows=False,
    ),
    Table(
        "rooms",
        "id=key defaultSchedule=@schedules site=@sites status=~Available|Closed|Reserved elementCount=int:0..40"
        " appointmentCount=int:0..900 active=flag isConferenceRoom=flag description=~?words:2..6 name=#label"
        " isTreatmentRoom=flag",
        rows=58,
        first_id=101,
        label="Room {id}",
        preview="id name",
        modified=True,
    ),
    Table(
        "room_groups",
        "id=key site=@sites roomCount=int:1..6 elementCount=int:0..40 rooms=[{ id=@rooms.id name=@rooms.label"
        " active=flag }] description=~words:2..6 name=#label",
        rows=12,
        first_id=201,
        label="Room group {id}",
        modified=True,
    ),
    Table(
        "sponsors",
        f"id=key name=#label sponsorDivisions=#divisions {_CONTACT}",
        rows=274,
        first_id=301,
        label="{last} Pharma {id}",
        preview="id name",
        modified=True,
        grows=False,
    ),
    Table(
        "sponsor_divisions",
        f"id=key name=#label sponsor=@sponsors teams=list {_CONTACT}",
        rows=274,
        first_id=701,
        label="{therapeutic} Division {id}",
        preview="id name",
        modified=True,
        grows=False,
    ),
    Table(
        "sponsor_teams",
        "id=key name=#label sponsor=@sponsors sponsorDivision=@sponsor_divisions"
        f" teamMembers=[{{ id=int:1..900 name=pool:last role=Lead|Monitor }}] {_CONTACT}",
        rows=273,
        first_id=1201,
        label="{therapeutic} Team {id}",
        preview="id name",
        modified=True,
        grows=False,
    ),
    Table(
        "monitors",
        "id=key firstName=#first lastName=#last displayName=~pool:last",
        rows=34,
        first_id=51,
        label="person",
        preview="id firstName lastName displayName",
    ),
    Table("study_types", _LOOKUP, rows=12, label="{therapeutic} type {id}", preview="id name"),
    _system(
        "allergies",
        936,
        4001,
        "description=~words:2..6 allergen={ id=int:1..9 allergenTypeID=Drug|Food|Other description=words:1..3"
        " isDefault=flag }",
    ),
    _system(
        "conditions",
        404,
        5001,
        "icd10Code=pool:icd10 icd9Code=pool:icd9 description=~words:2..6 genderCode=A|F|M childBearing=flag"
        " category={ id=int:1..9 name=pool:therapeutic description=words:1..3 }",
        "{therapeutic} condition {id}",
    ),
    _system(
        "medications",
        2295,
        6001,
        f"childBearing=flag description=~words:2..6 category={{ id=int:1..9 name=pool:therapeutic description=words:1..3"
        f" }} {_GENDER} defaultRoute={{ id=int:1..6 name=Oral|Topical|Injection }} defaultSchedule={{ id=int:1..6"
        " name=Daily|Weekly }",
    ),
    _system(
        "procedures",
        671,
        9001,
        f"childBearing=flag description=~words:2..6 cptCode=pool:cpt standardTime=int:5..90 {_GENDER} provider?={{"
        " id=int:1..99 providerName=pool:last title=Dr. firstName=pool:first middleName=null lastName=pool:last"
        " providerType={ id=int:1..6 name=Physician } }",
        "Procedure {id}",
    ),
    _system(
        "immunizations",
        78,
        10001,
        "description=~words:2..6 type={ id=int:1..9 name=Vaccine|Booster description=words:1..3 }",
        "Vaccine {id}",
    ),
    _system(
        "devices",
        3294,
        11001,
        f"childBearing=flag description=~words:2..6 type={{ id=int:1..9 name=Implant|External description=words:1..3 }}"
        f" {_GENDER}",
        "Device {id}",
    ),
    _system(
        "social_history",
        120,
        15001,
        "childBearing=flag description=~words:2..6 category={ id=int:1..9 name=Tobacco|Alcohol|Exercise"
        f" description=words:1..3 }} {_GENDER}",
        "Habit {id}",
    ),
    Table("document_types", "id=key name=#label category=~Regulatory|Financial|Other", rows=20, label="Document {id}"),
    Table("action_categories", "id=key name=#label type=~Study|Finance|Regulatory", rows=10, label="Category {id}"),
    Table("study_categories", _LOOKUP, rows=106, first_id=21, label="{therapeutic} {id}"),
    Table("study_subcategories", _LOOKUP, rows=8, label="{phase} {id}"),
    Table(
        "study_statuses",
        "lossReasons=[{ id=int:1..9 name=pool:reason }] winReasons=list id=key name=#label description=~words:2..6"
        " backColor=LightGreen|LightCoral isActive=flag isEnrollmentPermitted=flag studyPhase=None|PreStudy|InStudy|PostStudy",
        rows=15,
        label="Status {id}",
    ),
    Table(
        "patient_customfields",
        "id=key name=#label description=~words:2..6 dataType=Text|Numeric|Date|Boolean|Lookup minValue=null maxValue=null"
        " default=null lookupValues=pools:reason sortOrder=int:1..20",
        rows=9,
        label="Patient field {id}",
    ),
    Table(
        "study_customfields",
        "id=key name=#label description=~words:2..6 dataType=Text|Numeric|Date|Boolean|Lookup minValue=?money:0..9"
        " maxValue=?money:10..99 default=null lookupValues=pools:reason sortOrder=int:1..20",
        rows=6,
        label="Study field {id}",
    ),
    Table(
        "studies",
        "id=key sponsor=@sponsors sponsorDivision=@sponsor_divisions sponsorTeam=@sponsor_teams managingSite=@sites"
        " organization=@organizations createdOn=#created lastUpdatedOn=#updated studyTypes=pools:therapeutic"
        " studyGroups=pools:city studyGroup=?pool:city studyStatusBgColor=Green|Yellow|Red studyCurrency=USD"
        " contacts={ irbContact={ site1?={ id=int:1..9 name=Example_IRB registrationNumber=digits:6"
        " registrationExpiration=date:2027..2029 } site2=null reference=?digits:5 comment=null } croContact={ cro1?={"
        " id=int:1..9 name=Example_CRO } cro2=null reference=null comment=null } labContact={ lab1?={ id=int:1..9"
        " name=Example_Lab } lab2=null } monitorContact={ monitor1=@monitors monitor2=null } vendorContact={"
        " vendor1=null vendor2=null } correspondenceCount=int:0..60 } targetDates=[{ name=Enrollment tooltip=?words:1..3"
        " required=flag id=int:1..9 date=date:2026..2027 }] leadership=[{ name=Principal_Investigator required=true"
        " staff=@staff id=int:1..9 }] customFields=[{ id=int:1..9 name=Region value=pool:state attributeId=int:1..9 }]"
        " studyLead={ staff=@staff/2 source=Referral|Network date=date:2019..2022 comment=null } uid=uid name=#label"
        " status=~Enrolling|Active|Closed|On_Hold|Start_Up category=pool:therapeutic subcategory=pool:phase"
        " identifier=digits:6 indIdeNumber=?digits:6 title=words:6..14 protocolNumber=digits:8 phase=pool:phase"
        " nctNumber=#nct tag1=?words:1..1 tag2=null tag3=null tag4=null comment=~?words:2..9 description=words:6..20"
        " launchYear=int:2016..2025 finances={ financeType=Sponsored accountingCode1=digits:4 accountingCode2=null"
        " accountingCode3=null accountingCode4=null } opportunityDetails={ opportunityLevel=High|Low"
        " probability=money:0..100 expectedDate=date:2019..2022 expectedNumberOfSites=int:1..9 comment=null }"
        " enrollmentNote=~?words:4..20 budgetNote=?words:4..20 regulatoryNote=null contractNote=null",
        rows=1050,
        least=6,
        big=True,
        first_id=1001,
        label="{therapeutic} Study {id}",
        modified=True,
    ),
    Table("patients", _PATIENT, rows=152_751, least=24, big=True, first_id=500_001, label="person", modified=True),
    Table("prospects", _PATIENT, rows=3000, least=12, first_id=900_001, label="person", modified=True),
    Table(
        "protocol_versions",
        "id=key uid=uid study=@studies name=#label date=date:2019..2022 treatmentStatus=Open|Closed"
        " status=~Draft|Approved|Superseded importId=null importType=null protocolNumber=digits:8 comment=~?words:2..8"
        " irbApprovalDate=?date:2022..2024 isPatientReconsentRequired=flag",
        per=1.6,
        parent="studies",
        first_id=8001,
        label="Version {n}.0",
    ),
    Table(
        "study_arms",
        "Id=key Uid=uid Name=#revised",
        per=2,
        parent="studies",
        first_id=30_001,
        label="{arm} {n}",
        preview="Id Uid Name",
        grows=False,
    ),
    Table(
        "study_roles",
        "id=key name=#label isCoordinator=flag allowRoleSharing=flag restrictReassignment=~flag staff=[{ staff=@staff"
        " priority=Primary|Secondary|Backup }]",
        per=5,
        parent="studies",
        first_id=40_001,
        label="Role {n}",
        grows=False,
    ),
    Table(
        "study_personnel",
        "Role={ Id=@study_roles.id RoleName=@study_roles.label Coordinator=~flag } Staff=[{ Id=@staff.id UID=@staff.uid"
        " LastName=@staff.last FirstName=@staff.first MiddleName=null FullName=@staff.label Priority=~int:1..9"
        " Username=@staff.login }]",
        per=5,
        parent="studies",
        first_id=40_001,
        grows=False,
    ),
    Table(
        "study_warnings",
        "type=Visit|Element description=#warning visit=@visits element=@elements",
        per=1.5,
        parent="studies",
        local=True,
    ),
    Table(
        "study_integration_info",
        "integrationSystem=~OmniComm|OpenClinica|Crio|CCeSource",
        per=1,
        parent="studies",
        single=True,
        grows=False,
        local=True,
    ),
    Table(
        "visits",
        "id=key uid=uid study=@studies protocolVersion=@protocol_versions arms=#arms name=#label importId=null"
        " importType=null type=Regular|Unscheduled|Screening reference=Baseline|Enrollment optionalProcedure=null"
        " description=~?words:2..8 budget=~money:100..2000 cost=money:50..900 isBudgetAutoRecomputed=flag"
        " isCostAutoRecomputed=flag patientStipend=money:0..150 caregiverStipend=money:0..50 isActive=flag"
        " autoRepeat=flag repeatOnDemand=flag",
        per=10,
        parent="studies",
        big=True,
        first_id=50_001,
        label="Visit {n}",
        modified=True,
        grows=False,
    ),
    Table(
        "elements",
        "id=key uid=uid study=@studies roomAssignment={ name=AnyRoom type=AnyRoom id=null } name=#label"
        " type=Procedure|Lab|Questionnaire importId=?digits:5 importType=null description=~?words:2..8"
        " initialCategory=Clinical|Administrative initialInvoiceability=Invoiceable|NotInvoiceable"
        " budget=~money:5..400 cost=money:1..200 placeOfService=null cpt=?pool:cpt mnemonic=null"
        " standardTimeMinutes=int:5..90",
        rows=15_836,
        parent="studies",
        least_per=12,
        big=True,
        first_id=70_001,
        label="Element {n}",
        modified=True,
        grows=False,
    ),
    Table(
        "study_visit_arms",
        "Id=@study_arms.id Uid=@study_arms.uid Name=#revised_arm",
        per=0.7,
        parent="visits",
        first_id=1,
        grows=False,
        local=True,
    ),
    Table(
        "visit_element_relationships",
        "visit=@visits element={ id=@elements.id uid=@elements.uid name=@elements.label sequence=~int:1..30"
        " isRequired=~flag }",
        per=3,
        parent="visits",
        grows=False,
        local=True,
    ),
    Table(
        "study_documents",
        "id=key type={ id=@document_types.id name=@document_types.label category=Regulatory } status={"
        " updatedBy=@staff status=~Pending|Approved|Expired date=time:2022..2025 comment=~?words:1..6"
        " backgroundColor=White } description=words:2..8 version=digits:1 uid=uid source=Sponsor|Site"
        " effectiveDate=?date:2021..2024 expirationDate=?date:2026..2028 storedDocumentId=int:1..99999",
        per=5,
        parent="studies",
        local=True,
        modified=True,
    ),
    Table(
        "study_actions",
        "id=key category=#category assignedTo=@staff requestedBy=@staff/2 completedBy=?@staff/3 scheduling={"
        + _SCHEDULING
        + " dueDateMin=date:2024..2025 dueDateMax=date:2026..2026"
        + _OFFSET
        + " } finances={ quantityCompleted=money:0..9 unitOfMeasure=Hour|Each unitQuantity=money:1..9"
        " unitPrice=money:10..300 isPassThrough=flag } name=words:2..4 status=~Open|Completed|Waived type=Task|Finance"
        " completedOn=~?time:2024..2025 comment=~?words:2..6",
        per=4,
        parent="studies",
        local=True,
        modified=True,
    ),
    Table(
        "study_milestones",
        "hasAutoExpenditure=flag id=key assignedTo=@staff scheduling={"
        + _SCHEDULING
        + " dueDate=date:2024..2026"
        + _OFFSET
        + " } name=#label category=Start_Up|Enrollment|Close_Out importance=High|Normal status=~Pending|Completed|Skipped"
        " comment=~?words:2..6 completedOn=~?time:2024..2025 assignedOn=?time:2022..2023 projectedDate=?date:2025..2026",
        per=6,
        parent="studies",
        local=True,
        modified=True,
        label="Milestone {n}",
    ),
    Table(
        "study_notes",
        "id=key staff=@staff lastUpdatedStaff=?@staff/2 date=time:2022..2025 note=~words:4..30 locked=flag shared=flag",
        per=4,
        parent="studies",
        local=True,
        modified=True,
    ),
    Table(
        "monitor_queries",
        "responseCount=int:0..5 id=key query=words:4..12 status={ queryStatus=~New|Answered|Reissued|Resolved"
        " displayName=~New|Answered|Reissued|Resolved sortOrder=int:1..6 isConsideredOpen=flag canSetByPortalUser=flag }"
        " reason={ id=int:1..9 name=pool:reason } monitorVisit={ id=int:1..900 engagement={ id=int:1..99"
        " title=words:2..3 } engagementSite=@sites visitPlan={ id=int:1..9 name=words:1..2 } } qualification={"
        " id=int:1..9 question=words:3..8 } requestedByStaff=@staff assignedToMonitor=@monitors study=@studies"
        " createdOn=time:2023..2024 closedOn=~?time:2025..2025",
        per=3,
        parent="studies",
        first_id=90_001,
        modified=True,
    ),
    Table(
        "subjects",
        "id=key uid=uid study=@studies site=@sites patient={ firstName=@patients.first middleName=null"
        " lastName=@patients.last title=null genderCode=@patients.gender race=@patients.race"
        " ethnicity=@patients.ethnicity dateOfBirth=@patients.born id=@patients.id uid=@patients.uid"
        " name=@patients.label } status=#subject_status protocolVersion=@protocol_versions genderCode=@patients.gender"
        " race=@patients.race ethnicity=@patients.ethnicity arm=?@study_arms importId=null tag=~?words:1..2"
        " facilityCode=?digits:3 enrollmentDate=#enrolled enrollmentLocation=?pool:city screeningNumber=#screening"
        " randomizationNumber=?digits:6 treatmentStatus=~On_Treatment|Off_Treatment|Not_Started"
        " treatmentStart=#treatment narrative=~words:3..12",
        rows=40_950,
        parent="studies",
        least=12,
        big=True,
        first_id=200_001,
        label="S-{id}",
        preview="Id Uid Name",
        modified=True,
    ),
    Table(
        "subject_statuses",
        "status=#event_status isCurrentStatus=#event_current eventDate=#event_date comment=~?words:2..6 study=@studies"
        " site=@sites subject=@subjects",
        rows=119_749,
        parent="subjects",
        least_per=2.9,
        big=True,
        local=True,
    ),
    Table(
        "patient_visits",
        "id=key uid=uid sequence=#number visitId=@visits.id visitName=@visits.label cycleName=#cycle mandatory=flag"
        " status=#visit_status targetDueDate=#due minDueDate=#due_min maxDueDate=#due_max appointments=#appointments"
        " study=@studies subject=@subjects",
        rows=2_300_000,
        parent="subjects",
        least_per=4,
        big=True,
        first_id=3_000_001,
        modified=True,
    ),
    Table(
        "appointments",
        "id=key status=#appointment_status plannedStart=#planned_start plannedEnd=#planned_end comment=~words:2..8"
        " study=@studies site=@sites patient=@patients visit=@visits",
        rows=40_893,
        parent="subjects",
        least_per=1,
        big=True,
        first_id=600_001,
        modified=True,
        grows=False,
    ),
    Table(
        "patient_visit_elements",
        "sequence=#number id=key uid=uid elementId=@elements.id name=@elements.label durationMinutes=~int:5..90"
        " required=flag completedOn=#completed repeatable=flag isRepeatedElement=flag",
        per=0.913,
        parent="patient_visits",
        big=True,
        first_id=10_000_001,
    ),
    Table("patient_visit_stipends", _PAYMENT, per=0.25, parent="patient_visits", big=True, first_id=20_000_001),
    _of_patient("patient_devices", 0.4, "comment=~words:2..8 device=@system_devices"),
    _of_patient(
        "patient_allergies", 0.9, f"reaction=?Rash|Hives|Nausea comment=~?words:2..8 {_DATES} allergy=@system_allergies"
    ),
    _of_patient(
        "patient_providers",
        0.5,
        f"comment=~?words:2..8 {_DATES} provider={{ id=@providers.id providerName=@providers.label title=null"
        " firstName=@providers.first middleName=null lastName=@providers.last providerType={ id=int:1..6"
        " name=Physician } }",
    ),
    _of_patient("patient_conditions", 1.6, f"{_DATES} ageAtOnset=?int:1..80 comment=~?words:2..8 {_CONDITION}"),
    _of_patient(
        "patient_procedures",
        0.7,
        "name=words:1..3 comment=~?words:2..8 cptCode=?pool:cpt procedureBy=?pool:last date=time:2016..2025",
    ),
    _of_patient(
        "patient_medications",
        2.1,
        f"dosage=~5_mg|10_mg|20_mg|50_mg {_DATES} comment=~?words:2..8 medication=@system_medications route={{"
        " id=int:1..6 name=Oral|Topical } conditions=list",
    ),
    _of_patient(
        "patient_immunizations",
        1.0,
        "name=words:1..2 comment=~?words:2..8 location=?Left_arm|Right_arm date=time:2016..2025 immunizationType={"
        " id=@system_immunizations.id name=@system_immunizations.label }",
    ),
    _of_patient(
        "patient_family_history",
        0.8,
        f"relationName=?pool:first ageAtOnset=?int:1..80 comment=~?words:2..8 {_DATES} relation={{ id=int:1..6"
        f" name=Mother|Father|Sibling }} {_CONDITION}",
    ),
    _of_patient(
        "patient_social_history",
        1.1,
        "comment=~words:2..8 socialHistory={ id=@system_social_history.id name=@system_social_history.label category={"
        " id=int:1..9 name=Tobacco|Alcohol|Exercise } }",
    ),
    _of_patient(
        "patient_campaign_touches",
        0.6,
        "campaignElement={ id=int:1..99 name=words:1..2 campaign={ id=int:1..30 name=words:1..3 } } study=@studies"
        " date=time:2021..2025 comment=~?words:2..8 campaignMedia=Radio|Web|Print",
    ),
    _of_patient(
        "patient_referral_touches",
        0.2,
        "study=@studies date=time:2021..2025 comment=~?words:2..8 referralType=Physician|Friend referrerName=pool:last",
    ),
    Table(
        "action_unit_completions",
        "id=key unitOfMeasure=Hour|Each reportedBy=@staff unitQuantity=~money:1..9 comment=~?words:2..6"
        " completionDate=time:2023..2025",
        rows=3000,
        modified=True,
        first_id=100_001,
    ),
    Table(
        "invoices",
        "id=key uid=uid invoiceName=words:2..4 invoiceDate=date:2023..2025 invoiceType=Sponsor|CRO|Grant"
        " invoiceAmount=~money:100..90000 currency=USD recipient={ id=@sponsors.id name=@sponsors.label type=Sponsor"
        " IsBusiness=true IsPrivate=false FirstName=null MiddleName=null LastName=null CompanyName=@sponsors.label"
        " Title=null Address1=pool:street Address2=null Address3=null City=pool:city State=pool:state PostalCode=digits:5"
        " Country=United_States Email=email Email2=null Phone=phone Phone2=null Fax=null Fax2=null Mobile=null"
        " Mobile2=null Url=null Comment=null } study={ id=@studies.id name=@studies.label } lineItems=[{ id=int:1..99999"
        " invoiceItemUID=guid activityId=int:1..999 activity=words:1..3 accrualType=Visit|Element"
        " accrualDate=date:2022..2025 balanceDue=money:0..900 amount=money:1..900 metadata={ screeningNumber=?digits:4"
        " randomizationNumber=null subjectId=@subjects.id patientId=@patients.id budgetCode=null budgetType=Visit"
        " payeeId=null payeeType=Unknown fixedBudgetItemId=null expenditureId=null } }]",
        rows=5000,
        modified=True,
        first_id=110_001,
    ),
    Table(
        "remittances",
        "id=key invoices=[{ invoiceId=@invoices.id totalAppliedAmount=money:1..9000 appliedItems=list }] payer={"
        " name=@sponsors.label payerId=@sponsors.id payerType=Sponsor } categories=list studyAllocations=[{"
        " StudyName=@studies.label StudyId=@studies.id Amount=money:1..9000 }] amount=~money:1..9000"
        " checkNumber=digits:6 description=~?words:2..6 currencyCode=USD receivedDate=date:2023..2025",
        rows=800,
        modified=True,
        first_id=120_001,
    ),
    Table(
        "remittance_notes",
        "id=key staff=@staff date=time:2023..2025 note=~words:4..20",
        rows=600,
        modified=True,
        first_id=130_001,
    ),
    Table(
        "site_payments",
        "id=key site=@sites locked=flag amount=money:10..9000 createdOn=time:2023..2024 referenceNumber=digits:6"
        " approvedOn=?time:2025..2025 approvedBy=@staff checkRequest?={ id=guid name=words:1..3 }"
        " checkNumber=~?digits:6 paymentDate=~?date:2025..2025 comment=~?words:2..6",
        rows=1200,
        modified=True,
        first_id=140_001,
    ),
    Table("patient_payments", _PAYMENT, rows=20_000, modified=True, first_id=150_001),
    Table(
        "instance_details",
        "instanceUID=guid instanceType=CCS customerUID=guid webVersion=~9.1.0|9.1.1|9.2.0 dbVersion={ name=9.1"
        " versionID=guid created=time:2024..2024 } pubSub={ enabled=flag environment=Test pubSubId=guid }",
        rows=1,
        single=True,
        grows=False,
    ),
    Table(
        "instance_topology",
        "cce={ applicationUrl=https://cce.example.com/CCE instanceUID=guid remoteLinks=[{ cceSiteID=int:1..9"
        " ccsSiteID=@sites.id instanceUID=guid siteUID=guid aliasSiteUID=guid }] sites=[{ siteID=int:1..9 siteUID=guid }]"
        " } ccs=[{ applicationUrl=~https://ccs.example.com/CCSWEB|https://ccs2.example.com/CCSWEB instanceUID=guid"
        " sites=[{ siteID=@sites.id siteUID=@sites.uid }] }] pubSubId=guid",
        rows=1,
        single=True,
        grows=False,
    ),
    Table("lookup_lists", "", rows=54, label="Lookup list {id}", grows=False),
)

TABLES: Mapping[str, Table] = {table.name: table for table in _ROWS}
"""Every table by name."""

"""What the simulated instance holds: its tables, in a notation of a line or a few for each.

A table begins with its name and its properties (the fields of Table; `steady` means grows=False, "_" is a blank) and
goes on with its record's fields, indented: their names and order are the vendor's. How fields are read stands in
templates.py; `@table` is the preview of a related row (`@staff/2` another one, `@studies.id` its id alone), `#name` a
function of relations.py, and `...name` the fields of a fragment.

This list knows nothing of the catalog (catalog.py) on purpose: it is what the catalog is tested against.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """One table of the instance.

    `rows` is its size at scale 1, or `per` the rows per row of `parent`; `least` and `least_per` are what it keeps at
    the smallest scale. A `big` table follows the scale in both directions, another one only downwards.
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
    """The name, also in previews: "person", or a text with {id}, {n} (number within the parent) and pool names."""
    preview: str = "id uid name"
    grows: bool = True
    """Rows may appear and vanish by themselves, not only with their parent."""
    single: bool = False
    """One object, no list."""


_TABLES = """
lookup: fragment
  id=key name=#label description=~words:2..6
contact: fragment
  url=?https://partner.example.org primaryEmail=email secondaryEmail=?email primaryPhone=phone secondaryPhone=?phone
  fax=?phone comment=~?words:2..9
offset: fragment
  offset=int:0..30 offsetUnits=Days|Weeks|Months windowMax=int:0..9 windowMin=int:0..9 windowUnits=Days|Weeks
dates: fragment
  startDate=time:2018..2023 endDate=~?time:2024..2025
condition: fragment
  condition={ id=@system_conditions.id name=@system_conditions.label icd10Code=pool:icd10 icd9Code=pool:icd9 }
patient: fragment
  id=key primarySite=@sites displayName=#label status=~Active|Inactive|OnHold|Deceased|Ineligible
  statusReason=~?words:2..5 phone1={ rawNumber=digits:10 number=phone outOfService=flag } phone2={ rawNumber=digits:10
  number=phone outOfService=flag } phone3=null phone4=null
  activeStudies=#active_studies customFields=[{ name=Preferred_contact value=Morning|Evening|Weekend
  valueDate=?date:2021..2025 }] firstName=#first middleName=?pool:first lastName=#last phoneticName=null
  preferredName=?pool:first title=?Mr.|Ms.|Dr. primaryEmail={ email=email doNotEmail=flag } secondaryEmail=null
  country=United_States address1=pool:street address2=?words:1..2 address3=null
  city=pool:city state=pool:state zip=digits:5 doNotMail=flag recruitmentTextOptIn=flag
  phoneTypeToText=None|Phone1|Phone2 fax=?phone dateOfBirth=#born dateOfDeath=null genderCode=#gender race=#race
  ethnicity=#ethnicity nativeLanguage=pool:language maritalStatus=?Single|Married|Divorced|Widowed weight={
  value=money:95..260 unit=lbs } height={ value=money:58..77 unit=inches } ssn=null mrn=digits:8
  importId=?int:1..90000000000 importSourceId=?Legacy importPatientId=?digits:7 uid=uid primaryInsurance={
  name=pool:insurer account=digits:9 } secondaryInsurance?={ name=pool:insurer account=digits:9 } managedMedicare=flag
  guardian?={ name=pool:last phone=phone email=email addressSameAsPatient=flag address1=pool:street address2=null
  city=pool:city state=pool:state zip=digits:5 relationshipToPatient=Parent|Child receivePatientPayments=flag }
  caregiverId=null caregiver=flag
payment: fragment
  id=key patientVisitId=@patient_visits.id patientStudyId=@subjects.id
  patientStudyStatus=Screened|Randomized|Completed|FollowUp paymentMethod=Check|Cash|PaymentCard
  stipendType=Visit|Travel|Caregiver|Manual amount=money:10..250 paymentOn=time:2022..2025 paymentBy=@staff
  checkNumber=~?digits:6 transactionId=~digits:10
sites: rows=40 first_id=11 label={city}_Research_{id}
  id=key uid=uid name=#label active=flag description=~words:2..8 alternateName=?words:1..3 address1=pool:street
  address2=?words:1..2 address3=null city=pool:city state=pool:state country=United_States zip=digits:5
  primaryPhone=phone secondaryPhone=?phone primaryEmail=email secondaryEmail=?email url=null
  timeZone=Eastern_Standard_Time|Central_Standard_Time observesDST=flag organization=@organizations.label
  importSourceID=null createdOn=time:2015..2020
organizations: rows=1 label=Example_Research preview=Id_Name steady
  Id=key Name=~words:2..3
staff: rows=884 first_id=2001 modified label=person preview=id_uid_login_firstName_lastName_displayName
  id=key uid=uid displayName=#label staffRoles=[{ siteId=@sites.id siteUid=@sites.uid siteName=@sites.label
  roleId=int:1..9 roleName=Investigator|Coordinator|Recruiter principalInvestigator=flag subInvestigator=flag }]
  firstName=#first lastName=#last isStatusActive=~flag profession=pool:profession login=#login email=email
  isStaffExternal=flag
providers: rows=149 first_id=3001 modified label=person preview=id_name
  address1=pool:street address2=?words:1..2 city=pool:city state=pool:state zip=digits:5 country=United_States
  primaryPhone=~phone secondaryPhone=?phone primaryEmail=email secondaryEmail=?email business=flag providerType={
  description=?words:2..4 primaryCarePhysician=flag id=int:1..6 name=Physician|Clinic|Hospital } id=key
  providerName=#label title=?Dr.|Prof. firstName=#first middleName=null lastName=#last
schedules: rows=10 modified label=Schedule_{id} preview=id_name steady
  id=key name=#label comment=~?words:2..6 active=flag
rooms: rows=58 first_id=101 modified label=Room_{id} preview=id_name
  id=key defaultSchedule=@schedules site=@sites status=~Available|Closed|Reserved elementCount=int:0..40
  appointmentCount=int:0..900 active=flag isConferenceRoom=flag description=~?words:2..6 name=#label
  isTreatmentRoom=flag
room_groups: rows=12 first_id=201 modified label=Room_group_{id}
  id=key site=@sites roomCount=int:1..6 elementCount=int:0..40 rooms=[{ id=@rooms.id name=@rooms.label active=flag }]
  description=~words:2..6 name=#label
sponsors: rows=274 first_id=301 modified label={last}_Pharma_{id} preview=id_name steady
  id=key name=#label sponsorDivisions=#divisions ...contact
sponsor_divisions: rows=274 first_id=701 modified label={therapeutic}_Division_{id} preview=id_name steady
  id=key name=#label sponsor=@sponsors teams=list ...contact
sponsor_teams: rows=273 first_id=1201 modified label={therapeutic}_Team_{id} preview=id_name steady
  id=key name=#label sponsor=@sponsors sponsorDivision=@sponsor_divisions teamMembers=[{ id=int:1..900 name=pool:last
  role=Lead|Monitor }] ...contact
monitors: rows=34 first_id=51 label=person preview=id_firstName_lastName_displayName
  id=key firstName=#first lastName=#last displayName=~pool:last
study_types: rows=12 label={therapeutic}_type_{id} preview=id_name
  ...lookup
system_allergies: rows=936 first_id=4001 modified label={substance}_{id} preview=id_name
  ...lookup allergen={ id=int:1..9 allergenTypeID=Drug|Food|Other description=words:1..3 isDefault=flag }
system_conditions: rows=404 first_id=5001 modified label={therapeutic}_condition_{id} preview=id_name
  description=~words:2..6 genderCode=A|F|M childBearing=flag category={ id=int:1..9 name=pool:therapeutic
  description=words:1..3 } id=key name=#label icd10Code=pool:icd10 icd9Code=pool:icd9
system_medications: rows=2295 first_id=6001 modified label={substance}_{id} preview=id_name
  id=key name=#label childBearing=flag description=~words:2..6 category={ id=int:1..9 name=pool:therapeutic
  description=words:1..3 } gender={ id=int:1..2 name=Any genderCode=Any } defaultRoute={ id=int:1..6
  name=Oral|Topical|Injection } defaultSchedule={ id=int:1..6 name=Daily|Weekly }
system_procedures: rows=671 first_id=9001 modified label=Procedure_{id} preview=id_name
  id=key name=#label childBearing=flag description=~words:2..6 cptCode=pool:cpt standardTime=int:5..90 gender={
  id=int:1..2 name=Any genderCode=Any } provider?={ id=int:1..99 providerName=pool:last title=Dr. firstName=pool:first
  middleName=null lastName=pool:last providerType={ id=int:1..6 name=Physician } }
system_immunizations: rows=78 first_id=10001 modified label=Vaccine_{id} preview=id_name
  ...lookup type={ id=int:1..9 name=Vaccine|Booster description=words:1..3 }
system_devices: rows=3294 first_id=11001 modified label=Device_{id} preview=id_name
  id=key name=#label childBearing=flag description=~words:2..6 type={ id=int:1..9 name=Implant|External
  description=words:1..3 } gender={ id=int:1..2 name=Any genderCode=Any }
system_social_history: rows=120 first_id=15001 modified label=Habit_{id} preview=id_name
  id=key name=#label childBearing=flag description=~words:2..6 category={ id=int:1..9 name=Tobacco|Alcohol|Exercise
  description=words:1..3 } gender={ id=int:1..2 name=Any genderCode=Any }
document_types: rows=20 label=Document_{id}
  id=key name=#label category=~Regulatory|Financial|Other
action_categories: rows=10 label=Category_{id}
  id=key name=#label type=~Study|Finance|Regulatory
study_categories: rows=106 first_id=21 label={therapeutic}_{id}
  ...lookup
study_subcategories: rows=8 label={phase}_{id}
  ...lookup
study_statuses: rows=15 label=Status_{id}
  lossReasons=[{ id=int:1..9 name=pool:reason }] winReasons=list ...lookup backColor=LightGreen|LightCoral
  isActive=flag isEnrollmentPermitted=flag studyPhase=None|PreStudy|InStudy|PostStudy
patient_customfields: rows=9 label=Patient_field_{id}
  ...lookup dataType=Text|Numeric|Date|Boolean|Lookup minValue=null maxValue=null default=null
  lookupValues=pools:reason sortOrder=int:1..20
study_customfields: rows=6 label=Study_field_{id}
  ...lookup dataType=Text|Numeric|Date|Boolean|Lookup minValue=?money:0..9 maxValue=?money:10..99 default=null
  lookupValues=pools:reason sortOrder=int:1..20
studies: rows=1050 least=6 big first_id=1001 modified label={therapeutic}_Study_{id}
  id=key sponsor=@sponsors sponsorDivision=@sponsor_divisions sponsorTeam=@sponsor_teams managingSite=@sites
  organization=@organizations createdOn=#created lastUpdatedOn=#updated studyTypes=pools:therapeutic
  studyGroups=pools:city studyGroup=?pool:city studyStatusBgColor=Green|Yellow|Red studyCurrency=USD contacts={
  irbContact={ site1?={ id=int:1..9 name=Example_IRB registrationNumber=digits:6
  registrationExpiration=date:2027..2029 } site2=null reference=?digits:5 comment=null } croContact={ cro1?={
  id=int:1..9 name=Example_CRO } cro2=null reference=null comment=null } labContact={ lab1?={ id=int:1..9
  name=Example_Lab } lab2=null } monitorContact={ monitor1=@monitors monitor2=null } vendorContact={ vendor1=null
  vendor2=null } correspondenceCount=int:0..60 } targetDates=[{ name=Enrollment tooltip=?words:1..3 required=flag
  id=int:1..9 date=date:2026..2027 }] leadership=[{ name=Principal_Investigator required=true staff=@staff id=int:1..9
  }] customFields=[{ id=int:1..9 name=Region value=pool:state attributeId=int:1..9 }] studyLead={ staff=@staff/2
  source=Referral|Network date=date:2019..2022 comment=null } uid=uid name=#label
  status=~Enrolling|Active|Closed|On_Hold|Start_Up category=pool:therapeutic subcategory=pool:phase
  identifier=digits:6 indIdeNumber=?digits:6 title=words:6..14 protocolNumber=digits:8 phase=pool:phase nctNumber=#nct
  tag1=?words:1..1 tag2=null tag3=null tag4=null comment=~?words:2..9 description=words:6..20
  launchYear=int:2016..2025 finances={ financeType=Sponsored accountingCode1=digits:4 accountingCode2=null
  accountingCode3=null accountingCode4=null } opportunityDetails={ opportunityLevel=High|Low probability=money:0..100
  expectedDate=date:2019..2022 expectedNumberOfSites=int:1..9 comment=null } enrollmentNote=~?words:4..20
  budgetNote=?words:4..20 regulatoryNote=null contractNote=null
patients: rows=152751 least=24 big first_id=500001 modified label=person
  ...patient
prospects: rows=3000 least=12 first_id=900001 modified label=person
  ...patient
protocol_versions: per=1.6 parent=studies first_id=8001 label=Version_{n}.0 steady
  id=key uid=uid study=@studies name=#label date=date:2019..2022 treatmentStatus=Open|Closed
  status=~Draft|Approved|Superseded importId=null importType=null protocolNumber=digits:8 comment=~?words:2..8
  irbApprovalDate=?date:2022..2024 isPatientReconsentRequired=flag
study_arms: per=2 parent=studies first_id=30001 label={arm}_{n} preview=Id_Uid_Name steady
  Id=key Uid=uid Name=#revised
study_roles: per=5 parent=studies first_id=40001 label=Role_{n} steady
  id=key name=#label isCoordinator=flag allowRoleSharing=flag restrictReassignment=~flag staff=[{ staff=@staff
  priority=Primary|Secondary|Backup }]
study_personnel: per=5 parent=studies first_id=40001 steady
  Role={ Id=@study_roles.id RoleName=@study_roles.label Coordinator=~flag } Staff=[{ Id=@staff.id UID=@staff.uid
  LastName=@staff.last FirstName=@staff.first MiddleName=null FullName=@staff.label Priority=~int:1..9
  Username=@staff.login }]
study_warnings: per=1.5 parent=studies local
  type=Visit|Element description=#warning visit=@visits element=@elements
study_integration_info: per=1 parent=studies local steady single
  integrationSystem=~OmniComm|OpenClinica|Crio|CCeSource
visits: per=10 parent=studies big first_id=50001 modified label=Visit_{n} steady
  id=key uid=uid study=@studies protocolVersion=@protocol_versions arms=#arms name=#label importId=null
  importType=null type=Regular|Unscheduled|Screening reference=Baseline|Enrollment optionalProcedure=null
  description=~?words:2..8 budget=~money:100..2000 cost=money:50..900 isBudgetAutoRecomputed=flag
  isCostAutoRecomputed=flag patientStipend=money:0..150 caregiverStipend=money:0..50 isActive=flag autoRepeat=flag
  repeatOnDemand=flag
elements: rows=15836 parent=studies least_per=12 big first_id=70001 modified label=Element_{n} steady
  id=key uid=uid study=@studies roomAssignment={ name=AnyRoom type=AnyRoom id=null } name=#label
  type=Procedure|Lab|Questionnaire importId=?digits:5 importType=null description=~?words:2..8
  initialCategory=Clinical|Administrative initialInvoiceability=Invoiceable|NotInvoiceable budget=~money:5..400
  cost=money:1..200 placeOfService=null cpt=?pool:cpt mnemonic=null standardTimeMinutes=int:5..90
study_visit_arms: per=0.7 parent=visits local steady
  Id=@study_arms.id Uid=@study_arms.uid Name=#revised_arm
visit_element_relationships: per=3 parent=visits local steady
  visit=@visits element={ id=@elements.id uid=@elements.uid name=@elements.label sequence=~int:1..30 isRequired=~flag
  }
study_documents: per=5 parent=studies local modified
  id=key type={ id=@document_types.id name=@document_types.label category=Regulatory } status={ updatedBy=@staff
  status=~Pending|Approved|Expired date=time:2022..2025 comment=~?words:1..6 backgroundColor=White }
  description=words:2..8 version=digits:1 uid=uid source=Sponsor|Site effectiveDate=?date:2021..2024
  expirationDate=?date:2026..2028 storedDocumentId=int:1..99999
study_actions: per=4 parent=studies local modified
  id=key category=#category assignedTo=@staff requestedBy=@staff/2 completedBy=?@staff/3 scheduling={ reference={
  Type=Milestone|Action Id=int:1..5 Name=words:1..3 } schedulingMode=FixedDate|RelativeToMilestone
  dueDateMin=date:2024..2025 dueDateMax=date:2026..2026 ...offset } finances={ quantityCompleted=money:0..9
  unitOfMeasure=Hour|Each unitQuantity=money:1..9 unitPrice=money:10..300 isPassThrough=flag } name=words:2..4
  status=~Open|Completed|Waived type=Task|Finance completedOn=~?time:2024..2025 comment=~?words:2..6
study_milestones: per=6 parent=studies local modified label=Milestone_{n}
  hasAutoExpenditure=flag id=key assignedTo=@staff scheduling={ reference={ Type=Milestone|Action Id=int:1..5
  Name=words:1..3 } schedulingMode=FixedDate|RelativeToMilestone dueDate=date:2024..2026 ...offset } name=#label
  category=Start_Up|Enrollment|Close_Out importance=High|Normal status=~Pending|Completed|Skipped comment=~?words:2..6
  completedOn=~?time:2024..2025 assignedOn=?time:2022..2023 projectedDate=?date:2025..2026
study_notes: per=4 parent=studies local modified
  id=key staff=@staff lastUpdatedStaff=?@staff/2 date=time:2022..2025 note=~words:4..30 locked=flag shared=flag
monitor_queries: per=3 parent=studies first_id=90001 modified
  responseCount=int:0..5 id=key query=words:4..12 status={ queryStatus=~New|Answered|Reissued|Resolved
  displayName=~New|Answered|Reissued|Resolved sortOrder=int:1..6 isConsideredOpen=flag canSetByPortalUser=flag }
  reason={ id=int:1..9 name=pool:reason } monitorVisit={ id=int:1..900 engagement={ id=int:1..99 title=words:2..3 }
  engagementSite=@sites visitPlan={ id=int:1..9 name=words:1..2 } } qualification={ id=int:1..9 question=words:3..8 }
  requestedByStaff=@staff assignedToMonitor=@monitors study=@studies createdOn=time:2023..2024
  closedOn=~?time:2025..2025
subjects: rows=40950 parent=studies least=12 big first_id=200001 modified label=S-{id} preview=Id_Uid_Name
  id=key uid=uid study=@studies site=@sites patient={ firstName=@patients.first middleName=null
  lastName=@patients.last title=null genderCode=@patients.gender race=@patients.race ethnicity=@patients.ethnicity
  dateOfBirth=@patients.born id=@patients.id uid=@patients.uid name=@patients.label } status=#subject_status
  protocolVersion=@protocol_versions genderCode=@patients.gender race=@patients.race ethnicity=@patients.ethnicity
  arm=?@study_arms importId=null tag=~?words:1..2 facilityCode=?digits:3 enrollmentDate=#enrolled
  enrollmentLocation=?pool:city screeningNumber=#screening randomizationNumber=?digits:6
  treatmentStatus=~On_Treatment|Off_Treatment|Not_Started treatmentStart=#treatment narrative=~words:3..12
subject_statuses: rows=119749 parent=subjects least_per=2.9 big local
  status=#event_status isCurrentStatus=#event_current eventDate=#event_date comment=~?words:2..6 study=@studies
  site=@sites subject=@subjects
patient_visits: rows=2300000 parent=subjects least_per=4 big first_id=3000001 modified
  id=key uid=uid sequence=#number visitId=@visits.id visitName=@visits.label cycleName=#cycle mandatory=flag
  status=#visit_status targetDueDate=#due minDueDate=#due_min maxDueDate=#due_max appointments=#appointments
  study=@studies subject=@subjects
appointments: rows=40893 parent=subjects least_per=1 big first_id=600001 modified steady
  id=key status=#appointment_status plannedStart=#planned_start plannedEnd=#planned_end comment=~words:2..8
  study=@studies site=@sites patient=@patients visit=@visits
patient_visit_elements: per=0.913 parent=patient_visits big first_id=10000001
  sequence=#number id=key uid=uid elementId=@elements.id name=@elements.label durationMinutes=~int:5..90 required=flag
  completedOn=#completed repeatable=flag isRepeatedElement=flag
patient_visit_stipends: per=0.25 parent=patient_visits big first_id=20000001
  ...payment
patient_devices: per=0.4 parent=patients least=24 big local
  id=key comment=~words:2..8 device=@system_devices
patient_allergies: per=0.9 parent=patients least=24 big local
  id=key reaction=?Rash|Hives|Nausea comment=~?words:2..8 ...dates allergy=@system_allergies
patient_providers: per=0.5 parent=patients least=24 big local
  id=key comment=~?words:2..8 ...dates provider={ id=@providers.id providerName=@providers.label title=null
  firstName=@providers.first middleName=null lastName=@providers.last providerType={ id=int:1..6 name=Physician } }
patient_conditions: per=1.6 parent=patients least=24 big local
  id=key ...dates ageAtOnset=?digits:2 comment=~?words:2..8 ...condition
patient_procedures: per=0.7 parent=patients least=24 big local
  id=key name=words:1..3 comment=~?words:2..8 cptCode=?pool:cpt procedureBy=?pool:last date=time:2016..2025
patient_medications: per=2.1 parent=patients least=24 big local
  id=key dosage=~5_mg|10_mg|20_mg|50_mg ...dates comment=~?words:2..8 medication=@system_medications route={
  id=int:1..6 name=Oral|Topical } conditions=list
patient_immunizations: per=1.0 parent=patients least=24 big local
  id=key name=words:1..2 comment=~?words:2..8 location=?Left_arm|Right_arm date=time:2016..2025 immunizationType={
  id=@system_immunizations.id name=@system_immunizations.label }
patient_family_history: per=0.8 parent=patients least=24 big local
  id=key relationName=?pool:first ageAtOnset=?digits:2 comment=~?words:2..8 ...dates relation={ id=int:1..6
  name=Mother|Father|Sibling } ...condition
patient_social_history: per=1.1 parent=patients least=24 big local
  id=key comment=~words:2..8 socialHistory={ id=@system_social_history.id name=@system_social_history.label category={
  id=int:1..9 name=Tobacco|Alcohol|Exercise } }
patient_campaign_touches: per=0.6 parent=patients least=24 big local
  id=key campaignElement={ id=int:1..99 name=words:1..2 campaign={ id=int:1..30 name=words:1..3 } } study=@studies
  date=time:2021..2025 comment=~?words:2..8 campaignMedia=Radio|Web|Print
patient_referral_touches: per=0.2 parent=patients least=24 big local
  id=key study=@studies date=time:2021..2025 comment=~?words:2..8 referralType=Physician|Friend referrerName=pool:last
action_unit_completions: rows=3000 first_id=100001 modified
  id=key unitOfMeasure=Hour|Each reportedBy=@staff unitQuantity=~money:1..9 comment=~?words:2..6
  completionDate=time:2023..2025
invoices: rows=5000 first_id=110001 modified
  id=key uid=uid invoiceName=words:2..4 invoiceDate=date:2023..2025 invoiceType=Sponsor|CRO|Grant
  invoiceAmount=~money:100..90000 currency=USD recipient={ id=@sponsors.id name=@sponsors.label type=Sponsor
  IsBusiness=true IsPrivate=false FirstName=null MiddleName=null LastName=null CompanyName=@sponsors.label Title=null
  Address1=pool:street Address2=null Address3=null City=pool:city State=pool:state PostalCode=digits:5
  Country=United_States Email=email Email2=null Phone=phone Phone2=null Fax=null Fax2=null Mobile=null Mobile2=null
  Url=null Comment=null } study={ id=@studies.id name=@studies.label } lineItems=[{ id=int:1..99999
  invoiceItemUID=guid activityId=int:1..999 activity=words:1..3 accrualType=Visit|Element accrualDate=date:2022..2025
  balanceDue=money:0..900 amount=money:1..900 metadata={ screeningNumber=?digits:4 randomizationNumber=null
  subjectId=@subjects.id patientId=@patients.id budgetCode=null budgetType=Visit payeeId=null payeeType=Unknown
  fixedBudgetItemId=null expenditureId=null } }]
remittances: rows=800 first_id=120001 modified
  id=key invoices=[{ invoiceId=@invoices.id totalAppliedAmount=money:1..9000 appliedItems=list }] payer={
  name=@sponsors.label payerId=@sponsors.id payerType=Sponsor } categories=list studyAllocations=[{
  StudyName=@studies.label StudyId=@studies.id Amount=money:1..9000 }] amount=~money:1..9000 checkNumber=digits:6
  description=~?words:2..6 currencyCode=USD receivedDate=date:2023..2025
remittance_notes: rows=600 first_id=130001 modified
  id=key staff=@staff date=time:2023..2025 note=~words:4..20
site_payments: rows=1200 first_id=140001 modified
  id=key site=@sites locked=flag amount=money:10..9000 createdOn=time:2023..2024 referenceNumber=digits:6
  approvedOn=?time:2025..2025 approvedBy=@staff checkRequest?={ id=guid name=words:1..3 } checkNumber=~?digits:6
  paymentDate=~?date:2025..2025 comment=~?words:2..6
patient_payments: rows=20000 first_id=150001 modified
  ...payment
instance_details: rows=1 steady single
  instanceUID=guid instanceType=CCS customerUID=guid webVersion=~9.1.0|9.1.1|9.2.0 dbVersion={ name=9.1 versionID=guid
  created=time:2024..2024 } pubSub={ enabled=flag environment=Test pubSubId=guid }
instance_topology: rows=1 steady single
  cce={ applicationUrl=https://cce.example.com/CCE instanceUID=guid remoteLinks=[{ cceSiteID=int:1..9
  ccsSiteID=@sites.id instanceUID=guid siteUID=guid aliasSiteUID=guid }] sites=[{ siteID=int:1..9 siteUID=guid }] }
  ccs=[{ applicationUrl=~https://ccs.example.com/CCSWEB|https://ccs2.example.com/CCSWEB instanceUID=guid sites=[{
  siteID=@sites.id siteUID=@sites.uid }] }] pubSubId=guid
lookup_lists: rows=54 label=Lookup_list_{id} steady
"""


def _read(text: str) -> dict[str, Table]:
    """The tables of the notation."""
    fragments: dict[str, str] = {}
    tables: dict[str, Table] = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        head, _, shape = block.partition("\n")
        name, _, properties = head.partition(":")
        shape = re.sub(r"\.\.\.(\w+)", lambda found: fragments[found[1]], " ".join(shape.split()))
        if properties.strip() == "fragment":
            fragments[name] = shape
            continue
        values: dict[str, Any] = {}
        for word in properties.split():
            key, _, value = word.partition("=")
            if key in ("parent", "label", "preview"):
                values[key] = value if key == "parent" else value.replace("_", " ")
            elif key == "steady":
                values["grows"] = False
            else:
                values[key] = float(value) if "per" in key else int(value) if value else True
        tables[name] = Table(name, shape, **values)
    return tables


TABLES: Mapping[str, Table] = _read(_TABLES)
"""Every table by name."""

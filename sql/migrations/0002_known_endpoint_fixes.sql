-- Corrections of jobs that an existing deployment has wrong, applied once: what an operator changes afterwards stays, and
-- so does a job that somebody has already pointed elsewhere. An empty database has no rows to correct.

-- The API has no such endpoints.
update dw_etl_jobs as j
set is_active = false,
    inactive_reason = 'the API has no such endpoint',
    updated_at = now()
from (
    values
    (4, '/api/v1/users/odata'),
    (5, '/api/v1/roles/odata'),
    (6, '/api/v1/departments/odata'),
    (7, '/api/v1/audits/odata'),
    (12, '/api/v1/studies/{studyId}/forms/odata'),
    (14, '/api/v1/studies/{studyId}/screenings/odata'),
    (15, '/api/v1/studies/{studyId}/enrollments/odata'),
    (16, '/api/v1/studies/{studyId}/randomizations/odata'),
    (17, '/api/v1/studies/{studyId}/withdrawals/odata'),
    (18, '/api/v1/studies/{studyId}/protocol-deviations/odata'),
    (19, '/api/v1/studies/{studyId}/adverse-events/odata'),
    (20, '/api/v1/studies/{studyId}/concomitant-medications/odata'),
    (21, '/api/v1/studies/{studyId}/lab-results/odata'),
    (22, '/api/v1/studies/{studyId}/vitals/odata')
) as wrong (id, source_endpoint)
where j.id = wrong.id and j.source_endpoint = wrong.source_endpoint;

-- They answer 501 on CCS and exist on CCE only.
update dw_etl_jobs as j
set is_active = false,
    inactive_reason = 'answers 501 on CCS; it exists on CCE only',
    updated_at = now()
from (
    values
    (30, '/api/v1/monitor-queries/odata'),
    (31, '/api/v1/engagements/odata')
) as wrong (id, source_endpoint)
where j.id = wrong.id and j.source_endpoint = wrong.source_endpoint;

-- The path is another one.
update dw_etl_jobs as j
set source_endpoint = wrong.correct,
    updated_at = now()
from (
    values
    (23, '/api/v1/studies/{studyId}/queries/odata', '/api/v1/studies/{studyId}/monitor-queries/odata'),
    (132, '/api/v1/system/study-statuses/odata', '/api/v1/system/study-statuses'),
    (174, '/api/v1/studies/{studyId}/visit-arms/odata', '/api/v1/studies/{studyId}/visits/{visitId}/arms'),
    (
        175,
        '/api/v1/studies/{studyId}/visit-elements/odata',
        '/api/v1/studies/{studyId}/visits/{visitId}/elements/odata'
    )
) as wrong (id, source_endpoint, correct)
where j.id = wrong.id and j.source_endpoint = wrong.source_endpoint;

-- A path with parameters takes parameters, and they are the record's own id, never the staging table's serial.
update dw_etl_jobs as j
set requires_parameters = true,
    parameter_source_column = 'data->>''id''',
    updated_at = now()
where j.source_endpoint like '%{%}%'
    and (j.requires_parameters is not true or j.parameter_source_column is null or j.parameter_source_column = 'id');

-- Enrollments: every subject is one row; those with an enrollment date are enrolled.
create or replace view stg_fact_enrollment as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    s.data ->> 'enrollmentDate' as event_time,
    s.data ->> 'treatmentStart' as treatment_time,
    coalesce(s.data -> 'study' ->> 'id', s.parent_source_id) as study_id,
    s.source_id as subject_id,
    s.data -> 'patient' ->> 'id' as patient_id,
    s.data -> 'site' ->> 'id' as site_id,
    coalesce(s.data -> 'arm' ->> 'Id', s.data -> 'arm' ->> 'id') as study_arm_id,
    s.data ->> 'status' as status,
    coalesce(s.data ->> 'randomizationNumber', '') <> '' as is_randomized
from dim_subjects_staging as s;
comment on view stg_fact_enrollment is 'Staging as dw_fact_enrollment reads it; text that is still to be cast.';

create or replace procedure load_dw_fact_enrollment(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_fact_enrollment', full_refresh, run_id);
end $$;
comment on procedure load_dw_fact_enrollment (boolean, bigint) is 'Loads dw_fact_enrollment.';

select dw_register('load_dw_fact_enrollment', 'fact', 41, '{dim_subjects_staging}', '{load_dw_dim_date,load_dw_dim_study,load_dw_dim_subject,load_dw_dim_patient,load_dw_dim_site,load_dw_dim_study_arm}');

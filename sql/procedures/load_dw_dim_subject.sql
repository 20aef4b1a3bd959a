-- Subjects, without the patient's name and date of birth, which the record carries too.
create or replace view stg_dim_subject as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    coalesce(s.data ->> 'modifiedDate', s.data ->> 'lastUpdatedOn') as source_time,
    s.updated_at at time zone 'UTC' as observed_at,
    s.data ->> 'uid' as uid,
    coalesce(s.data -> 'study' ->> 'id', s.parent_source_id) as study_id,
    s.data -> 'site' ->> 'id' as site_id,
    s.data -> 'patient' ->> 'id' as patient_id,
    coalesce(s.data -> 'arm' ->> 'Id', s.data -> 'arm' ->> 'id') as arm_id,
    coalesce(s.data -> 'arm' ->> 'Name', s.data -> 'arm' ->> 'name') as arm_name,
    s.data ->> 'status' as status,
    s.data -> 'protocolVersion' ->> 'id' as protocol_version_id,
    s.data -> 'protocolVersion' ->> 'name' as protocol_version_name,
    s.data ->> 'genderCode' as gender_code,
    s.data ->> 'race' as race,
    s.data ->> 'ethnicity' as ethnicity,
    s.data ->> 'tag' as tag,
    s.data ->> 'facilityCode' as facility_code,
    s.data ->> 'enrollmentDate' as enrollment_date,
    s.data ->> 'enrollmentLocation' as enrollment_location,
    s.data ->> 'screeningNumber' as screening_number,
    s.data ->> 'randomizationNumber' as randomization_number,
    s.data ->> 'treatmentStatus' as treatment_status,
    s.data ->> 'treatmentStart' as treatment_start
from dim_subjects_staging as s;
comment on view stg_dim_subject is 'Staging as dw_dim_subject reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_subject(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_subject', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_subject (boolean, bigint) is 'Loads dw_dim_subject.';

select dw_register('load_dw_dim_subject', 'scd2', 21, '{dim_subjects_staging}', parent_reference => 'study');

-- Patients. Which columns are PHI is said by the comments of dw_dim_patient.
create or replace view stg_dim_patient as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    coalesce(s.data ->> 'modifiedDate', s.data ->> 'lastUpdatedOn') as source_time,
    s.updated_at at time zone 'UTC' as observed_at,
    s.data ->> 'uid' as uid,
    s.data ->> 'status' as status,
    s.data -> 'primarySite' ->> 'id' as primary_site_id,
    s.data ->> 'genderCode' as gender_code,
    s.data ->> 'race' as race,
    s.data ->> 'ethnicity' as ethnicity,
    s.data ->> 'nativeLanguage' as native_language,
    s.data ->> 'maritalStatus' as marital_status,
    s.data ->> 'state' as state,
    s.data ->> 'country' as country,
    s.data ->> 'doNotMail' as do_not_mail,
    s.data ->> 'recruitmentTextOptIn' as text_opt_in,
    s.data ->> 'caregiver' as is_caregiver,
    s.data ->> 'dateOfBirth' as date_of_birth,
    s.data ->> 'dateOfDeath' as date_of_death,
    s.data ->> 'firstName' as first_name,
    s.data ->> 'middleName' as middle_name,
    s.data ->> 'lastName' as last_name,
    s.data ->> 'preferredName' as preferred_name,
    s.data ->> 'displayName' as display_name,
    s.data -> 'primaryEmail' ->> 'email' as email,
    s.data -> 'secondaryEmail' ->> 'email' as secondary_email,
    coalesce(s.data -> 'phone1' ->> 'number', s.data -> 'phone1' ->> 'rawNumber') as phone,
    coalesce(s.data -> 'phone2' ->> 'number', s.data -> 'phone2' ->> 'rawNumber') as secondary_phone,
    s.data ->> 'address1' as address1,
    s.data ->> 'address2' as address2,
    s.data ->> 'city' as city,
    s.data ->> 'zip' as zip,
    s.data ->> 'mrn' as mrn
from dim_patients_staging as s;
comment on view stg_dim_patient is 'Staging as dw_dim_patient reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_patient(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_patient', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_patient (boolean, bigint) is 'Loads dw_dim_patient.';

select dw_register('load_dw_dim_patient', 'scd2', 22, '{dim_patients_staging}');

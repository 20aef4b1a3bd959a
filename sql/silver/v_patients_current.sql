-- Patients as they are now, with the columns that identify them: for the PHI reader only.
create or replace view v_patients_current as
select
    p.patient_key,
    p.source_instance_id,
    p.source_id as patient_id,
    p.uid,
    p.status,
    p.primary_site_id,
    p.first_name,
    p.middle_name,
    p.last_name,
    p.preferred_name,
    p.display_name,
    p.date_of_birth,
    p.date_of_death,
    p.gender_code,
    p.race,
    p.ethnicity,
    p.native_language,
    p.marital_status,
    p.email,
    p.secondary_email,
    p.phone,
    p.secondary_phone,
    p.address1,
    p.address2,
    p.city,
    p.state,
    p.zip,
    p.country,
    p.mrn,
    p.do_not_mail,
    p.text_opt_in,
    p.is_caregiver,
    case when isfinite(p.valid_from) then p.valid_from end as changed_at
from dw_dim_patient as p
where p.is_current and p.patient_key > 0;
comment on view v_patients_current is 'PHI: patients as they are now, names and contact data included. Not for analysts.';

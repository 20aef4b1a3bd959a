-- Medical codes: seven lists in one table, told apart by source_table.
create or replace view stg_dim_medical_code as
select
    s.source_instance_id,
    'dim_system_allergies_staging'::text as source_table,
    s.parent_source_id,
    s.source_id,
    'allergy'::text as code_type,
    s.data ->> 'name' as name,
    s.data ->> 'description' as description,
    s.data -> 'allergen' ->> 'id' as category_id,
    s.data -> 'allergen' ->> 'description' as category_name,
    null::text as icd10_code,
    null::text as icd9_code,
    null::text as cpt_code,
    null::text as gender_code,
    null::text as child_bearing
from dim_system_allergies_staging as s
union all
select
    s.source_instance_id,
    'dim_system_conditions_staging'::text as source_table,
    s.parent_source_id,
    s.source_id,
    'condition'::text as code_type,
    s.data ->> 'name' as name,
    s.data ->> 'description' as description,
    s.data -> 'category' ->> 'id' as category_id,
    s.data -> 'category' ->> 'name' as category_name,
    s.data ->> 'icd10Code' as icd10_code,
    s.data ->> 'icd9Code' as icd9_code,
    null::text as cpt_code,
    s.data ->> 'genderCode' as gender_code,
    s.data ->> 'childBearing' as child_bearing
from dim_system_conditions_staging as s
union all
select
    s.source_instance_id,
    'dim_system_medications_staging'::text as source_table,
    s.parent_source_id,
    s.source_id,
    'medication'::text as code_type,
    s.data ->> 'name' as name,
    s.data ->> 'description' as description,
    s.data -> 'category' ->> 'id' as category_id,
    s.data -> 'category' ->> 'name' as category_name,
    null::text as icd10_code,
    null::text as icd9_code,
    null::text as cpt_code,
    s.data -> 'gender' ->> 'genderCode' as gender_code,
    s.data ->> 'childBearing' as child_bearing
from dim_system_medications_staging as s
union all
select
    s.source_instance_id,
    'dim_system_procedures_staging'::text as source_table,
    s.parent_source_id,
    s.source_id,
    'procedure'::text as code_type,
    s.data ->> 'name' as name,
    s.data ->> 'description' as description,
    null::text as category_id,
    null::text as category_name,
    null::text as icd10_code,
    null::text as icd9_code,
    s.data ->> 'cptCode' as cpt_code,
    s.data -> 'gender' ->> 'genderCode' as gender_code,
    s.data ->> 'childBearing' as child_bearing
from dim_system_procedures_staging as s
union all
select
    s.source_instance_id,
    'dim_system_immunizations_staging'::text as source_table,
    s.parent_source_id,
    s.source_id,
    'immunization'::text as code_type,
    s.data ->> 'name' as name,
    s.data ->> 'description' as description,
    s.data -> 'type' ->> 'id' as category_id,
    s.data -> 'type' ->> 'name' as category_name,
    null::text as icd10_code,
    null::text as icd9_code,
    null::text as cpt_code,
    null::text as gender_code,
    null::text as child_bearing
from dim_system_immunizations_staging as s
union all
select
    s.source_instance_id,
    'dim_system_devices_staging'::text as source_table,
    s.parent_source_id,
    s.source_id,
    'device'::text as code_type,
    s.data ->> 'name' as name,
    s.data ->> 'description' as description,
    s.data -> 'type' ->> 'id' as category_id,
    s.data -> 'type' ->> 'name' as category_name,
    null::text as icd10_code,
    null::text as icd9_code,
    null::text as cpt_code,
    s.data -> 'gender' ->> 'genderCode' as gender_code,
    s.data ->> 'childBearing' as child_bearing
from dim_system_devices_staging as s
union all
select
    s.source_instance_id,
    'dim_system_social_history_staging'::text as source_table,
    s.parent_source_id,
    s.source_id,
    'social_history'::text as code_type,
    s.data ->> 'name' as name,
    s.data ->> 'description' as description,
    s.data -> 'category' ->> 'id' as category_id,
    s.data -> 'category' ->> 'name' as category_name,
    null::text as icd10_code,
    null::text as icd9_code,
    null::text as cpt_code,
    s.data -> 'gender' ->> 'genderCode' as gender_code,
    s.data ->> 'childBearing' as child_bearing
from dim_system_social_history_staging as s;
comment on view stg_dim_medical_code is 'Staging as dw_dim_medical_code reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_medical_code(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_medical_code', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_medical_code (boolean, bigint) is 'Loads dw_dim_medical_code.';

select dw_register('load_dw_dim_medical_code', 'type1', 14, '{dim_system_allergies_staging,dim_system_conditions_staging,dim_system_medications_staging,dim_system_procedures_staging,dim_system_immunizations_staging,dim_system_devices_staging,dim_system_social_history_staging}');

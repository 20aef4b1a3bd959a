-- Visits of the protocols.
create or replace view stg_dim_visit as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    coalesce(s.data ->> 'modifiedDate', s.data ->> 'lastUpdatedOn') as source_time,
    s.updated_at at time zone 'UTC' as observed_at,
    s.data ->> 'uid' as uid,
    coalesce(s.data -> 'study' ->> 'id', s.parent_source_id) as study_id,
    s.data -> 'protocolVersion' ->> 'id' as protocol_version_id,
    s.data ->> 'name' as name,
    s.data ->> 'type' as type,
    s.data ->> 'reference' as reference,
    s.data ->> 'description' as description,
    s.data ->> 'importId' as import_id,
    s.data ->> 'importType' as import_type,
    s.data ->> 'optionalProcedure' as optional_procedure,
    nullif(s.data -> 'arms', 'null') as arms,
    s.data ->> 'budget' as budget,
    s.data ->> 'cost' as cost,
    s.data ->> 'patientStipend' as patient_stipend,
    s.data ->> 'caregiverStipend' as caregiver_stipend,
    s.data ->> 'isActive' as is_active,
    s.data ->> 'autoRepeat' as auto_repeat,
    s.data ->> 'repeatOnDemand' as repeat_on_demand
from dim_visits_staging as s;
comment on view stg_dim_visit is 'Staging as dw_dim_visit reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_visit(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_visit', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_visit (boolean, bigint) is 'Loads dw_dim_visit.';

select dw_register('load_dw_dim_visit', 'scd2', 23, '{dim_visits_staging}', parent_reference => 'study');

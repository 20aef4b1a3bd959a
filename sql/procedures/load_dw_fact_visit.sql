-- Visits of the subjects. A visit took place when an appointment of it was completed.
create or replace view stg_fact_visit as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    coalesce(jsonb_path_query_array(s.data, '$.appointments[*] ? (@.status == "Completed").scheduledStart') ->> -1, s.data ->> 'targetDueDate') as event_time,
    s.data ->> 'targetDueDate' as target_time,
    s.data -> 'study' ->> 'id' as study_id,
    coalesce(s.data -> 'subject' ->> 'Id', s.data -> 'subject' ->> 'id') as subject_id,
    s.data ->> 'visitId' as visit_id,
    s.data ->> 'visitName' as visit_name,
    s.data ->> 'cycleName' as cycle_name,
    s.data ->> 'sequence' as sequence,
    s.data ->> 'mandatory' as is_mandatory,
    s.data ->> 'status' as status,
    s.data ->> 'minDueDate' as earliest_time,
    s.data ->> 'maxDueDate' as latest_time,
    jsonb_path_query_array(s.data, '$.appointments[*] ? (@.status == "Completed").scheduledStart') ->> -1 as visited_time,
    case when jsonb_typeof(s.data -> 'appointments') = 'array' then jsonb_array_length(s.data -> 'appointments') end as appointments,
    jsonb_array_length(jsonb_path_query_array(s.data, '$.appointments[*] ? (@.status == "Cancelled" || @.status == "NoShow")')) as missed_appointments
from dim_patient_visits_staging as s;
comment on view stg_fact_visit is 'Staging as dw_fact_visit reads it; text that is still to be cast.';

create or replace procedure load_dw_fact_visit(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_fact_visit', full_refresh, run_id);
end $$;
comment on procedure load_dw_fact_visit (boolean, bigint) is 'Loads dw_fact_visit.';

select dw_register('load_dw_fact_visit', 'fact', 42, '{dim_patient_visits_staging}', '{load_dw_dim_date,load_dw_dim_study,load_dw_dim_subject,load_dw_dim_visit}');

-- Completed elements of the subjects' visits.
create or replace view stg_fact_visit_element_response as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    s.data ->> 'completedOn' as event_time,
    s.parent_source_id as patient_visit_id,
    p.data -> 'study' ->> 'id' as study_id,
    coalesce(p.data -> 'subject' ->> 'Id', p.data -> 'subject' ->> 'id') as subject_id,
    p.data ->> 'visitId' as visit_id,
    s.data ->> 'elementId' as visit_element_id,
    s.data ->> 'name' as element_name,
    s.data ->> 'sequence' as sequence,
    s.data ->> 'required' as is_required,
    s.data ->> 'repeatable' as is_repeatable,
    s.data ->> 'isRepeatedElement' as is_repeated,
    s.data ->> 'durationMinutes' as duration_minutes
from dim_patient_visit_elements_staging as s
left join lateral (
    select v.data
    from dim_patient_visits_staging as v
    where v.source_instance_id = s.source_instance_id and v.source_id = s.parent_source_id
    order by v.parent_source_id
    limit 1
) as p on true
where s.data ->> 'completedOn' <> '';
comment on view stg_fact_visit_element_response is 'Staging as dw_fact_visit_element_response reads it; text that is still to be cast.';

-- An element's record names neither study nor subject: its visit does. A changed visit brings its elements back.
create or replace view stg_fact_visit_element_response_via_dim_patient_visits_staging as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    v.changed_xid
from dim_patient_visits_staging as v
inner join dim_patient_visit_elements_staging as s
    on v.source_instance_id = s.source_instance_id and v.source_id = s.parent_source_id
union all
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    d.changed_xid
from dw_etl_deleted_records as d
inner join dim_patient_visit_elements_staging as s
    on d.source_instance_id = s.source_instance_id and d.source_id = s.parent_source_id
where d.target_table = 'dim_patient_visits_staging';
comment on view stg_fact_visit_element_response_via_dim_patient_visits_staging is 'Elements whose visit changed.';

create index if not exists dim_patient_visits_staging_by_id on dim_patient_visits_staging (source_instance_id, source_id);

create or replace procedure load_dw_fact_visit_element_response(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_fact_visit_element_response', full_refresh, run_id);
end $$;
comment on procedure load_dw_fact_visit_element_response (boolean, bigint) is 'Loads dw_fact_visit_element_response.';

select dw_register('load_dw_fact_visit_element_response', 'fact', 43, '{dim_patient_visit_elements_staging,dim_patient_visits_staging}', '{load_dw_dim_date,load_dw_dim_study,load_dw_dim_subject,load_dw_dim_visit,load_dw_dim_visit_element}');

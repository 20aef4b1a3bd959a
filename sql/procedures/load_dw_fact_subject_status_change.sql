-- Status events. They have no id: a corrected event is another row.
create or replace view stg_fact_subject_status_change as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    s.data ->> 'eventDate' as event_time,
    s.data -> 'study' ->> 'id' as study_id,
    coalesce(s.data -> 'subject' ->> 'Id', s.data -> 'subject' ->> 'id') as subject_id,
    s.data -> 'site' ->> 'id' as site_id,
    s.data ->> 'status' as status,
    s.data ->> 'isCurrentStatus' as is_current_status
from dim_subject_statuses_staging as s;
comment on view stg_fact_subject_status_change is 'Staging as dw_fact_subject_status_change reads it; text that is still to be cast.';

create or replace procedure load_dw_fact_subject_status_change(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_fact_subject_status_change', full_refresh, run_id);
end $$;
comment on procedure load_dw_fact_subject_status_change (boolean, bigint) is 'Loads dw_fact_subject_status_change.';

select dw_register('load_dw_fact_subject_status_change', 'fact', 40, '{dim_subject_statuses_staging}', '{load_dw_dim_date,load_dw_dim_study,load_dw_dim_subject,load_dw_dim_site}');

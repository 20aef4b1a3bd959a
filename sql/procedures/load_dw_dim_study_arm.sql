-- Arms of the studies.
create or replace view stg_dim_study_arm as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    coalesce(s.data ->> 'modifiedDate', s.data ->> 'lastUpdatedOn') as source_time,
    s.updated_at at time zone 'UTC' as observed_at,
    coalesce(s.data ->> 'Uid', s.data ->> 'uid') as uid,
    s.parent_source_id as study_id,
    coalesce(s.data ->> 'Name', s.data ->> 'name') as name
from dim_study_arms_staging as s;
comment on view stg_dim_study_arm is 'Staging as dw_dim_study_arm reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_study_arm(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_study_arm', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_study_arm (boolean, bigint) is 'Loads dw_dim_study_arm.';

select dw_register('load_dw_dim_study_arm', 'scd2', 25, '{dim_study_arms_staging}', parent_reference => 'study');

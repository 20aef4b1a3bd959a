-- Monitors; the newest state only.
create or replace view stg_dim_monitor as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    s.data ->> 'firstName' as first_name,
    s.data ->> 'lastName' as last_name,
    s.data ->> 'displayName' as display_name
from dim_monitors_staging as s;
comment on view stg_dim_monitor is 'Staging as dw_dim_monitor reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_monitor(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_monitor', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_monitor (boolean, bigint) is 'Loads dw_dim_monitor.';

select dw_register('load_dw_dim_monitor', 'type1', 13, '{dim_monitors_staging}');

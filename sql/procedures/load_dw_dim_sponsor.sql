-- Sponsors.
create or replace view stg_dim_sponsor as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    coalesce(s.data ->> 'modifiedDate', s.data ->> 'lastUpdatedOn') as source_time,
    s.updated_at at time zone 'UTC' as observed_at,
    s.data ->> 'name' as name,
    s.data ->> 'url' as url,
    s.data ->> 'primaryEmail' as primary_email,
    s.data ->> 'primaryPhone' as primary_phone,
    nullif(s.data -> 'sponsorDivisions', 'null') as divisions
from dim_sponsors_staging as s;
comment on view stg_dim_sponsor is 'Staging as dw_dim_sponsor reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_sponsor(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_sponsor', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_sponsor (boolean, bigint) is 'Loads dw_dim_sponsor.';

select dw_register('load_dw_dim_sponsor', 'scd2', 12, '{dim_sponsors_staging}');

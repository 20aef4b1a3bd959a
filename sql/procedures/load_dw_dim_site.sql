-- Sites.
create or replace view stg_dim_site as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    coalesce(s.data ->> 'modifiedDate', s.data ->> 'lastUpdatedOn') as source_time,
    s.updated_at at time zone 'UTC' as observed_at,
    s.data ->> 'uid' as uid,
    s.data ->> 'name' as name,
    s.data ->> 'active' as is_active,
    s.data ->> 'description' as description,
    s.data ->> 'alternateName' as alternate_name,
    s.data ->> 'address1' as address1,
    s.data ->> 'city' as city,
    s.data ->> 'state' as state,
    s.data ->> 'zip' as zip,
    s.data ->> 'country' as country,
    s.data ->> 'primaryPhone' as primary_phone,
    s.data ->> 'primaryEmail' as primary_email,
    s.data ->> 'timeZone' as time_zone,
    s.data ->> 'organization' as organization,
    s.data ->> 'createdOn' as created_on
from dim_sites_staging as s;
comment on view stg_dim_site is 'Staging as dw_dim_site reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_site(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_site', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_site (boolean, bigint) is 'Loads dw_dim_site.';

select dw_register('load_dw_dim_site', 'scd2', 10, '{dim_sites_staging}');

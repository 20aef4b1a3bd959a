-- Staff.
create or replace view stg_dim_staff as
select
    s.source_instance_id,
    s.parent_source_id,
    s.source_id,
    coalesce(s.data ->> 'modifiedDate', s.data ->> 'lastUpdatedOn') as source_time,
    s.updated_at at time zone 'UTC' as observed_at,
    s.data ->> 'uid' as uid,
    s.data ->> 'displayName' as display_name,
    s.data ->> 'firstName' as first_name,
    s.data ->> 'lastName' as last_name,
    s.data ->> 'login' as login,
    s.data ->> 'email' as email,
    s.data ->> 'profession' as profession,
    s.data ->> 'isStatusActive' as is_active,
    s.data ->> 'isStaffExternal' as is_external,
    nullif(s.data -> 'staffRoles', 'null') as roles
from dim_staff_staging as s;
comment on view stg_dim_staff is 'Staging as dw_dim_staff reads it; text that is still to be cast.';

create or replace procedure load_dw_dim_staff(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_dim_staff', full_refresh, run_id);
end $$;
comment on procedure load_dw_dim_staff (boolean, bigint) is 'Loads dw_dim_staff.';

select dw_register('load_dw_dim_staff', 'scd2', 11, '{dim_staff_staging}');

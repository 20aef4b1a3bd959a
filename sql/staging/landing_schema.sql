-- The schema of one instance's landing tables. Made once, before the jobs of a run start: several sessions that make one
-- schema at the same moment get in each other's way.
create or replace function dw_landing_schema(p_instance integer) returns void
language plpgsql
set client_min_messages = warning
as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('trialsync_landing_' || p_instance, 0));
    execute format('create schema if not exists %I', 'trialsync_landing_' || p_instance);
exception
    when unique_violation or duplicate_schema then null;
end
$$;
comment on function dw_landing_schema(integer) is 'Makes the landing schema of one instance where it is absent.';

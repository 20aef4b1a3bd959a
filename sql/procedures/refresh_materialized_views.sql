-- Every materialized view; the facts come first, by load_all_new_facts.
create or replace procedure refresh_materialized_views(full_refresh boolean default false)
language plpgsql as $$
begin
    call dw_load_all('{view}', full_refresh);
end $$;
comment on procedure refresh_materialized_views (boolean) is 'Refreshes every materialized view that is out of date.';

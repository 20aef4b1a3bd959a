-- Refreshes mv_site_visits.
create or replace procedure refresh_mv_site_visits(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_refresh('refresh_mv_site_visits', full_refresh, run_id);
end $$;
comment on procedure refresh_mv_site_visits (boolean, bigint) is 'Refreshes mv_site_visits.';

select dw_register(
    'refresh_mv_site_visits', 'view', 91, '{dw_fact_visit,dw_dim_subject}', '{load_dw_fact_visit,load_dw_dim_subject}', derived => true, keeps_history => true, target_table => 'mv_site_visits'
);

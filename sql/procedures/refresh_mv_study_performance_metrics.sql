-- Refreshes mv_study_performance_metrics.
create or replace procedure refresh_mv_study_performance_metrics(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_refresh('refresh_mv_study_performance_metrics', full_refresh, run_id);
end $$;
comment on procedure refresh_mv_study_performance_metrics (boolean, bigint) is 'Refreshes mv_study_performance_metrics.';

select dw_register(
    'refresh_mv_study_performance_metrics', 'view', 90, '{dw_fact_study_performance,dw_dim_study}', '{load_dw_fact_study_performance}', derived => true, keeps_history => true, target_table => 'mv_study_performance_metrics'
);

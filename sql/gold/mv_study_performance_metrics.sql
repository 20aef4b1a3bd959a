-- The last 90 days of every study, with its name. Refreshed by refresh_materialized_views(), concurrently.
-- A changed definition needs a migration that drops the view first.
create materialized view if not exists mv_study_performance_metrics as
select
    f.source_instance_id,
    f.study_id,
    d.full_date as performance_date,
    t.name as study_name,
    t.status as study_status,
    t.phase,
    t.sponsor_name,
    f.subjects,
    f.screened,
    f.screen_failed,
    f.enrolled,
    f.randomized,
    f.completed,
    f.withdrawn,
    f.enrolled_last_30_days,
    f.target_enrollment,
    f.screen_failure_rate,
    f.randomization_rate,
    f.completion_rate,
    f.withdrawal_rate,
    f.velocity_per_month,
    f.percent_to_target
from dw_fact_study_performance as f
inner join dw_dim_date as d on f.event_date_key = d.date_key
left join dw_dim_study as t on f.source_instance_id = t.source_instance_id and f.study_id = t.source_id and t.is_current
where d.full_date > (now() at time zone 'UTC')::date - 90;
create unique index if not exists mv_study_performance_metrics_key
on mv_study_performance_metrics (source_instance_id, study_id, performance_date);
comment on materialized view mv_study_performance_metrics is 'Each study on each of the last 90 days: counts, rates, velocity and the way to the target.';

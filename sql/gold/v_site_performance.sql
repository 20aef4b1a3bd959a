-- One row per site: its studies, its subjects and what became of them, and the visits of these subjects.
create or replace view v_site_performance as
with per_study as (
    select
        f.source_instance_id,
        f.site_id,
        f.study_id,
        count(*) as subjects,
        count(*) filter (where f.is_enrolled) as enrolled,
        count(*) filter (where f.event_time > now() - interval '30 days' and f.event_time <= now()) as enrolled_last_30_days,
        count(*) filter (where f.is_randomized) as randomized,
        count(*) filter (where f.status = 'Completed') as completed,
        count(*) filter (where f.status = 'Dropped') as dropped,
        count(*) filter (where f.status = 'ScreenFailed') as screen_failed
    from dw_fact_enrollment as f
    group by f.source_instance_id, f.site_id, f.study_id
),

per_site as (
    select
        p.source_instance_id,
        p.site_id,
        count(p.study_id) as studies,
        sum(p.subjects)::bigint as subjects,
        sum(p.enrolled)::bigint as enrolled,
        sum(p.enrolled_last_30_days)::bigint as enrolled_last_30_days,
        sum(p.randomized)::bigint as randomized,
        sum(p.completed)::bigint as completed,
        sum(p.dropped)::bigint as dropped,
        sum(p.screen_failed)::bigint as screen_failed
    from per_study as p
    group by p.source_instance_id, p.site_id
)

select
    s.source_instance_id,
    s.source_id as site_id,
    s.name as site_name,
    s.country,
    s.is_active,
    coalesce(e.studies, 0) as studies,
    coalesce(e.subjects, 0) as subjects,
    coalesce(e.enrolled, 0) as enrolled,
    coalesce(e.enrolled_last_30_days, 0) as enrolled_last_30_days,
    coalesce(e.randomized, 0) as randomized,
    coalesce(e.completed, 0) as completed,
    coalesce(e.dropped, 0) as dropped,
    coalesce(e.screen_failed, 0) as screen_failed,
    round(e.dropped::numeric / nullif(e.enrolled, 0), 4) as withdrawal_rate,
    coalesce(v.visits, 0) as visits,
    coalesce(v.visits_completed, 0) as visits_completed,
    coalesce(v.visits_overdue, 0) as visits_overdue,
    v.median_days_from_target
from dw_dim_site as s
left join per_site as e on s.source_instance_id = e.source_instance_id and s.source_id = e.site_id
left join mv_site_visits as v on s.source_instance_id = v.source_instance_id and s.source_id = v.site_id
where s.is_current and s.site_key > 0;
comment on view v_site_performance is 'Per site: studies, subjects and their outcome now, and the visits of these subjects.';

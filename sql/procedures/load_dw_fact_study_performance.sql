-- Studies day by day: a periodic snapshot of the last 90 days, drawn from the status events and the enrollments.
create or replace view stg_fact_study_performance as
with firsts as (
    -- The first time each subject reached each milestone.
    select
        s.source_instance_id,
        s.study_id,
        s.subject_id,
        min(s.event_time) as seen,
        min(s.event_time) filter (
            where s.status in ('Screened', 'ScreenFailed', 'RunIn', 'RunInFailed', 'Randomized', 'FollowUp', 'Completed', 'Dropped')
        ) as screened,
        min(s.event_time) filter (where s.status in ('ScreenFailed', 'RunInFailed')) as screen_failed,
        min(s.event_time) filter (where s.status = 'Randomized') as randomized,
        min(s.event_time) filter (where s.status = 'Completed') as completed,
        min(s.event_time) filter (where s.status = 'Dropped') as withdrawn
    from dw_fact_subject_status_change as s
    where s.study_id is not null and s.subject_id is not null and s.event_time is not null
    group by s.source_instance_id, s.study_id, s.subject_id
),

milestones as (
    select
        f.source_instance_id,
        f.study_id,
        m.milestone,
        (m.reached at time zone 'UTC')::date as day
    from firsts as f
    cross join lateral (
        values ('seen', f.seen), ('screened', f.screened), ('screen_failed', f.screen_failed), ('randomized', f.randomized),
            ('completed', f.completed), ('withdrawn', f.withdrawn)
    ) as m (milestone, reached)
    where m.reached is not null
    union all
    select
        e.source_instance_id,
        e.study_id,
        'enrolled' as milestone,
        (e.event_time at time zone 'UTC')::date as day
    from dw_fact_enrollment as e
    where e.event_time is not null
),

-- Everything before the first day shown is counted on the day before it; 30 days more are kept for the velocity.
daily as (
    select
        m.source_instance_id,
        m.study_id,
        greatest(m.day, (now() at time zone 'UTC')::date - 120) as day,
        count(*) filter (where m.milestone = 'seen') as subjects,
        count(*) filter (where m.milestone = 'screened') as screened,
        count(*) filter (where m.milestone = 'screen_failed') as screen_failed,
        count(*) filter (where m.milestone = 'enrolled') as enrolled,
        count(*) filter (where m.milestone = 'randomized') as randomized,
        count(*) filter (where m.milestone = 'completed') as completed,
        count(*) filter (where m.milestone = 'withdrawn') as withdrawn
    from milestones as m
    group by m.source_instance_id, m.study_id, greatest(m.day, (now() at time zone 'UTC')::date - 120)
),

counted as (
    select
        t.source_instance_id,
        t.source_id as study_id,
        t.target_enrollment,
        g.day::date as day,
        sum(d.subjects) over w as subjects,
        sum(d.screened) over w as screened,
        sum(d.screen_failed) over w as screen_failed,
        sum(d.enrolled) over w as enrolled,
        sum(d.randomized) over w as randomized,
        sum(d.completed) over w as completed,
        sum(d.withdrawn) over w as withdrawn,
        sum(d.enrolled) over (w rows between 29 preceding and current row) as enrolled_last_30_days
    from dw_dim_study as t
    cross join generate_series((now() at time zone 'UTC')::date - 120, (now() at time zone 'UTC')::date, interval '1 day') as g (day)
    left join daily as d
        on t.source_instance_id = d.source_instance_id and t.source_id = d.study_id and d.day = g.day::date
    where t.is_current and t.study_key > 0
    window w as (partition by t.source_instance_id, t.source_id order by g.day)
)

select
    c.source_instance_id,
    c.study_id as parent_source_id,
    to_char(c.day, 'YYYY-MM-DD') as source_id,
    c.day::timestamp at time zone 'UTC' as event_time,
    c.study_id,
    coalesce(c.subjects, 0)::integer as subjects,
    coalesce(c.screened, 0)::integer as screened,
    coalesce(c.screen_failed, 0)::integer as screen_failed,
    coalesce(c.enrolled, 0)::integer as enrolled,
    coalesce(c.randomized, 0)::integer as randomized,
    coalesce(c.completed, 0)::integer as completed,
    coalesce(c.withdrawn, 0)::integer as withdrawn,
    coalesce(c.enrolled_last_30_days, 0)::integer as enrolled_last_30_days,
    c.target_enrollment
from counted as c
where c.day > (now() at time zone 'UTC')::date - 90;
comment on view stg_fact_study_performance is 'What each study had reached at the end of each of the last 90 days.';

create or replace procedure load_dw_fact_study_performance(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_fact_study_performance', full_refresh, run_id);
end $$;
comment on procedure load_dw_fact_study_performance (boolean, bigint) is 'Loads dw_fact_study_performance.';

select dw_register('load_dw_fact_study_performance', 'fact', 50, '{dw_fact_subject_status_change,dw_fact_enrollment,dw_dim_study}',
    '{load_dw_dim_date,load_dw_dim_study,load_dw_fact_subject_status_change,load_dw_fact_enrollment}', derived => true, keeps_history => true);

-- One row per study: how many subjects stand where.
create or replace view v_study_enrollment_summary as
with enrollments as (
    select
        f.source_instance_id,
        f.study_id,
        count(*) as subjects,
        count(*) filter (where f.is_enrolled) as enrolled,
        count(*) filter (where f.status = 'Prescreened') as prescreened,
        count(*) filter (where f.status = 'Screened') as screened,
        count(*) filter (where f.status in ('RunIn', 'RunInFailed')) as run_in,
        count(*) filter (where f.status = 'Randomized') as randomized,
        count(*) filter (where f.status = 'FollowUp') as follow_up,
        count(*) filter (where f.status = 'Completed') as completed,
        count(*) filter (where f.status = 'Dropped') as dropped,
        count(*) filter (where f.status = 'ScreenFailed') as screen_failed,
        count(*) filter (where f.status = 'NonQualified') as non_qualified,
        count(*) filter (
            where f.status in (
                'Prescreened', 'Screened', 'RunIn', 'RunInFailed', 'Randomized', 'FollowUp', 'Completed', 'Dropped', 'ScreenFailed',
                'NonQualified'
            )
        ) as known,
        min(f.event_time) as first_enrolled_at,
        max(f.event_time) as last_enrolled_at
    from dw_fact_enrollment as f
    group by f.source_instance_id, f.study_id
)

select
    t.source_instance_id,
    t.source_id as study_id,
    t.name as study_name,
    t.protocol_number,
    t.phase,
    t.status as study_status,
    t.sponsor_name,
    t.managing_site_name,
    t.target_enrollment,
    coalesce(e.subjects, 0) as subjects,
    coalesce(e.enrolled, 0) as enrolled,
    coalesce(e.prescreened, 0) as prescreened,
    coalesce(e.screened, 0) as screened,
    coalesce(e.run_in, 0) as run_in,
    coalesce(e.randomized, 0) as randomized,
    coalesce(e.follow_up, 0) as follow_up,
    coalesce(e.completed, 0) as completed,
    coalesce(e.dropped, 0) as dropped,
    coalesce(e.screen_failed, 0) as screen_failed,
    coalesce(e.non_qualified, 0) as non_qualified,
    coalesce(e.subjects, 0) - coalesce(e.known, 0) as other_status,
    e.first_enrolled_at,
    e.last_enrolled_at,
    round(100.0 * coalesce(e.enrolled, 0) / nullif(t.target_enrollment, 0), 2) as percent_to_target
from dw_dim_study as t
left join enrollments as e on t.source_instance_id = e.source_instance_id and t.source_id = e.study_id
where t.is_current and t.study_key > 0;
comment on view v_study_enrollment_summary is 'Per study: subjects by the status they have now, enrolled ones (an enrollment date is there), and the way to the target.';

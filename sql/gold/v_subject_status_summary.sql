-- One row per study and status: who has it now, and who ever had it.
create or replace view v_subject_status_summary as
with now_in as (
    select
        f.source_instance_id,
        f.study_id,
        f.status,
        count(*) as subjects
    from dw_fact_enrollment as f
    where f.study_id is not null and f.status is not null
    group by f.source_instance_id, f.study_id, f.status
),

-- Per subject first: counting distinct subjects would sort every event.
per_subject as (
    select
        f.source_instance_id,
        f.study_id,
        f.status,
        f.subject_id,
        count(*) as events,
        min(f.event_time) as first_event_at,
        max(f.event_time) as last_event_at
    from dw_fact_subject_status_change as f
    where f.study_id is not null and f.status is not null
    group by f.source_instance_id, f.study_id, f.status, f.subject_id
),

ever_in as (
    select
        e.source_instance_id,
        e.study_id,
        e.status,
        count(e.subject_id) as subjects,
        sum(e.events)::bigint as events,
        min(e.first_event_at) as first_event_at,
        max(e.last_event_at) as last_event_at
    from per_subject as e
    group by e.source_instance_id, e.study_id, e.status
)

select
    coalesce(n.source_instance_id, h.source_instance_id) as source_instance_id,
    coalesce(n.study_id, h.study_id) as study_id,
    t.name as study_name,
    coalesce(n.status, h.status) as status,
    coalesce(n.subjects, 0) as subjects_now,
    coalesce(h.subjects, 0) as subjects_ever,
    coalesce(h.events, 0) as events,
    h.first_event_at,
    h.last_event_at
from now_in as n
full join ever_in as h on n.source_instance_id = h.source_instance_id and n.study_id = h.study_id and n.status = h.status
left join dw_dim_study as t
    on t.source_instance_id = coalesce(n.source_instance_id, h.source_instance_id)
    and t.source_id = coalesce(n.study_id, h.study_id)
    and t.is_current;
comment on view v_subject_status_summary is 'Per study and status: subjects that have it now (as the subjects say) and subjects and events that ever had it (as the status events say).';

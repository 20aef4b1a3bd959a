-- Arms a subject was ever in. The source shows the arm of today; the history of dw_dim_subject knows the ones before.
create or replace view stg_fact_subject_arm as
select
    d.source_instance_id,
    d.parent_source_id || '/' || d.source_id as parent_source_id,
    d.arm_id as source_id,
    min(case when isfinite(d.valid_from) then d.valid_from else coalesce(d.treatment_start, d.enrollment_date) end) as event_time,
    nullif(max(d.valid_to), 'infinity') as left_time,
    min(d.study_id) as study_id,
    d.source_id as subject_id,
    d.arm_id as study_arm_id,
    bool_or(d.is_current) as is_current_arm
from dw_dim_subject as d
where d.arm_id is not null and d.subject_key > 0
group by d.source_instance_id, d.parent_source_id, d.source_id, d.arm_id;
comment on view stg_fact_subject_arm is 'The arms in the history of each subject.';

create or replace procedure load_dw_fact_subject_arm(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
begin
    run_id := dw_apply('load_dw_fact_subject_arm', full_refresh, run_id);
end $$;
comment on procedure load_dw_fact_subject_arm (boolean, bigint) is 'Loads dw_fact_subject_arm.';

select dw_register('load_dw_fact_subject_arm', 'fact', 45, '{dw_dim_subject}', '{load_dw_dim_date,load_dw_dim_study,load_dw_dim_subject,load_dw_dim_study_arm}', derived => true);

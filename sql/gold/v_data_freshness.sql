-- One row per layer and table: when it was brought up to date last, and how old that is. Read from the ledgers, so it is
-- answered at once however large the tables are.
create or replace view v_data_freshness as
select
    'bronze' as layer,
    j.target_table as table_name,
    max(r.completed_at at time zone 'UTC') as refreshed_at,
    now() - max(r.completed_at at time zone 'UTC') as age,
    bool_or(j.is_active) as is_active
from dw_etl_jobs as j
left join lateral (
    select s.completed_at
    from dw_etl_runs as s
    where s.job_id = j.id and s.run_status = 'success'
    order by s.started_at desc
    limit 1
) as r on true
group by j.target_table
union all
select
    case when t.kind = 'view' then 'gold' else 'silver' end as layer,
    t.target_table as table_name,
    r.finished_at as refreshed_at,
    now() - r.finished_at as age,
    true as is_active
from dw_transformations as t
left join lateral (
    select s.finished_at
    from dw_transformation_runs as s
    where s.procedure_name = t.procedure_name and s.status = 'success'
    order by s.started_at desc
    limit 1
) as r on true;
comment on view v_data_freshness is 'Per layer and table: when the last successful load ended, and its age; null when there was none.';

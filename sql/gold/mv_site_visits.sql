-- The visits of each site's subjects. Materialized because there are millions of visits; v_site_performance shows it.
-- A changed definition needs a migration that drops the view first.
create materialized view if not exists mv_site_visits as
select
    s.source_instance_id,
    s.site_id,
    count(*) as visits,
    count(*) filter (where v.status = 'Completed') as visits_completed,
    count(*) filter (where v.status <> 'Completed' and v.latest_time < now()) as visits_overdue,
    percentile_disc(0.5) within group (order by v.days_from_target) as median_days_from_target
from dw_fact_visit as v
inner join dw_dim_subject as s
    on v.source_instance_id = s.source_instance_id
    and s.parent_source_id = replace(replace(v.study_id, '%', '%25'), '/', '%2F')
    and v.subject_id = s.source_id
    and s.is_current
where s.site_id is not null
group by s.source_instance_id, s.site_id;
create unique index if not exists mv_site_visits_key on mv_site_visits (source_instance_id, site_id);
comment on materialized view mv_site_visits is 'Per site: visits planned, completed and overdue, and how far from the due day they took place.';

-- Bronze, silver and gold have to tell the same story.
select dw_check('bronze_silver_counts', 'error',
    'Staging and warehouse differ: rows are missing or left over. Run transform; if it stays, run it with --full-refresh.',
    'select dw_count_unreconciled()');
select dw_check('silver_gold_counts', 'error',
    'v_study_enrollment_summary counts other subjects than dw_fact_enrollment has for the studies it knows.',
    $$select abs(
        (select coalesce(sum(subjects), 0) from v_study_enrollment_summary)
        - (
            select count(*) from dw_fact_enrollment as f
            where exists (
                select from dw_dim_study as t
                where t.source_instance_id = f.source_instance_id and t.source_id = f.study_id and t.is_current
            )
        ))::bigint$$);
select dw_check('rejected_rows', 'warning',
    'Staged rows stand in quarantine: dw_transformation_rejected_rows says which column of which row.',
    'select count(*) from dw_transformation_rejected_rows');
select dw_check('stale_tables', 'warning',
    'An active table of staging, or a table of the warehouse, was not brought up to date for two days.',
    $$select count(*) from v_data_freshness where is_active and age > interval '2 days'$$);

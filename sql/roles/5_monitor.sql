-- Reads the ledgers: for the dashboard, the metrics and the alerts. No record, no key.
do $$ begin
    if not exists (select from pg_roles where rolname = 'trialsync_monitor') then
        create role trialsync_monitor nologin;
    end if;
end $$;
comment on role trialsync_monitor is 'TrialSync: reads the ledgers only';
grant usage on schema public to trialsync_monitor;
grant select on
dw_etl_jobs, dw_etl_runs, dw_etl_parents, dw_etl_watermarks, dw_etl_capabilities, dw_schema_migrations,
dw_transformations, dw_transformation_runs, dw_transformation_watermarks, dw_transformation_rejected_rows,
dw_quality_checks, dw_quality_results, dw_quality_measures, dw_audit_log, dw_alerts, v_data_freshness
to trialsync_monitor;
grant select (id, instance_name, base_url, is_active) on dw_api_credentials to trialsync_monitor;
grant select (
    id, source_instance_id, etl_job_id, etl_run_id, target_table, reason, first_seen_at, last_seen_at, times_seen
) on dw_etl_rejected_records to trialsync_monitor;

-- Runs the procedures and the checks: reads staging, writes silver and gold.
do $$ begin
    if not exists (select from pg_roles where rolname = 'trialsync_transformer') then
        create role trialsync_transformer nologin;
    end if;
end $$;
comment on role trialsync_transformer is 'TrialSync: runs the warehouse procedures';
grant usage on schema public to trialsync_transformer;
do $$ begin
    execute format('grant temporary on database %I to trialsync_transformer', current_database());
end $$;
do $$
declare
    item record;
begin
    for item in
        select c.relname,
            c.relname like '%\_staging' or c.relname like 'stg\_%' or c.relname = 'dw_etl_deleted_records'
                or c.relname like 'dw\_etl\_jobs' or c.relname like 'dw\_etl\_runs' or c.relname = 'dw_quality_checks'
                or c.relname like 'v\_%' or c.relname like 'mv\_%' as reads
        from pg_class as c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'm') and c.relname <> 'v_patients_current'
            and c.relname ~ '(_staging$|^stg_|^dw_dim_|^dw_fact_|^dw_transformation|^dw_quality_|^dw_etl_deleted_records$|^dw_etl_jobs$|^dw_etl_runs$|^v_|^mv_)'
    loop
        execute format('grant %s on %I to trialsync_transformer',
            case when item.reads then 'select' else 'select, insert, update, delete' end, item.relname);
    end loop;
end $$;
revoke insert, update, delete on dw_transformations from trialsync_transformer;
grant select on dw_schema_migrations to trialsync_transformer;
grant execute on function dw_maintain(text), dw_suspend_indexes(text), dw_resume_indexes(text) to trialsync_transformer;

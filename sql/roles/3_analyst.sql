-- Reads gold, and silver without the columns that identify a patient. A column without a comment is not granted.
do $$ begin
    if not exists (select from pg_roles where rolname = 'trialsync_analyst') then
        create role trialsync_analyst nologin;
    end if;
end $$;
comment on role trialsync_analyst is 'TrialSync: reads gold, and silver without PHI';
grant usage on schema public to trialsync_analyst;
do $$
declare
    item record;
begin
    for item in
        select c.relname, string_agg(quote_ident(a.attname), ', ') as columns
        from pg_class as c
        inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relname ~ '^dw_(dim|fact)_'
            and col_description(c.oid, a.attnum) not like 'PHI%'
        group by c.relname
    loop
        execute format('revoke all on %I from trialsync_analyst', item.relname);
        execute format('grant select (%s) on %I to trialsync_analyst', item.columns, item.relname);
    end loop;
end $$;
grant select on
v_study_enrollment_summary, v_subject_status_summary, v_site_performance, v_data_freshness,
mv_study_performance_metrics, mv_site_visits
to trialsync_analyst;

-- Loads bronze: staging, its ledger and the landing area. Sees nothing of the warehouse.
do $$ begin
    if not exists (select from pg_roles where rolname = 'trialsync_loader') then
        create role trialsync_loader nologin;
    end if;
end $$;
comment on role trialsync_loader is 'TrialSync: writes staging and the ledger';
grant usage on schema public to trialsync_loader;
do $$ begin
    execute format('grant create, temporary on database %I to trialsync_loader', current_database());
end $$;
do $$
declare
    item record;
begin
    for item in
        select c.relname
        from pg_class as c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v')
            and (c.relname like '%\_staging' or c.relname like 'dw\_etl\_%')
    loop
        execute format('grant select, insert, update, delete on %I to trialsync_loader', item.relname);
    end loop;
end $$;
grant usage on all sequences in schema public to trialsync_loader;
grant select on dw_schema_migrations to trialsync_loader;
-- A run makes the row of its instance where there is none, and notes the base URL it was given.
grant select, insert, update on dw_api_credentials to trialsync_loader;

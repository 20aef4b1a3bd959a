-- A staging table of the catalog, made where it is absent. An existing one of the old kind is left to
-- dw_upgrade_staging_table; the columns of both end up the same.
create or replace function dw_ensure_staging_table(p_table text, p_description text) returns void
language plpgsql
set client_min_messages = warning
as $$
begin
    if to_regclass(format('public.%I', p_table)) is not null then
        if not exists (
            select from pg_class as c
            inner join pg_attribute as a on a.attrelid = c.oid
            where c.oid = to_regclass(format('public.%I', p_table))
                and c.relkind = 'r' and a.attname = 'data' and a.atttypid = 'jsonb'::regtype
        ) then
            raise exception 'there is a %, but it is no table with a column data of type jsonb', p_table
                using hint = 'Rename it and migrate again.';
        end if;
        return;
    end if;
    execute format(
        'create table public.%1$I (
            id serial primary key,
            data jsonb not null,
            source_id varchar(255) not null,
            etl_job_id integer,
            etl_run_id integer,
            loaded_at timestamp default now(),
            created_at timestamp default now(),
            updated_at timestamp default now(),
            source_instance_id integer not null,
            parent_source_id text not null default '''',
            content_hash bytea,
            changed_xid xid8 not null default pg_current_xact_id()
        )', p_table
    );
    perform dw_finish_staging_table(p_table, p_description);
end
$$;
comment on function dw_ensure_staging_table(text, text) is 'Makes one staging table where it is absent.';

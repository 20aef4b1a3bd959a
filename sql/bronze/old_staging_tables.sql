-- Staging tables that still have no unique key, whoever made them.
create or replace view dw_old_staging_tables as
select c.relname::text as table_name
from pg_class as c
inner join pg_attribute as a on c.oid = a.attrelid and a.attname = 'data' and a.atttypid = 'jsonb'::regtype
where c.relnamespace = 'public'::regnamespace
    and c.relkind = 'r'
    and c.relname like '%\_staging'
    and not exists (
        select from pg_index as i
        where i.indrelid = c.oid
            and i.indisunique
            and i.indisvalid
            and i.indpred is null
            and i.indnkeyatts = 3
            and (
                select array_agg(k.attname::text order by k.attname::text)
                from pg_attribute as k
                where k.attrelid = c.oid and k.attnum = any((i.indkey::smallint[])[0:2])
            ) = array['parent_source_id', 'source_id', 'source_instance_id']
    );
comment on view dw_old_staging_tables is 'Staging tables that a migration has still to upgrade.';
comment on column dw_old_staging_tables.table_name is 'Name of the table, in schema public.';

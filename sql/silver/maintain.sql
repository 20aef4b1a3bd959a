-- What takes the owner of a table, for whoever may run the procedures: analyze, refresh, and indexes built after a first
-- load instead of row by row. Only targets of the list; what is executed comes from the catalog, never from the caller.
create or replace function dw_maintain(target text) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    target_kind text := (select t.kind from dw_transformations as t where t.target_table = target);
    is_empty boolean;
begin
    if target_kind is null then
        raise exception '% is not on the list dw_transformations', target;
    elsif target_kind = 'view' then
        -- Comparing with nothing would only cost time, and an empty view has no readers to block.
        execute format('select not exists (select from %I)', target) into is_empty;
        execute format('refresh materialized view %s %I', case when is_empty then '' else 'concurrently' end, target);
    else
        -- Only what joins go by; autovacuum sees to the rest, which may wait.
        execute format('analyze %I (%s)', target, (
            select string_agg(quote_ident(a.attname), ', ')
            from pg_attribute as a
            where a.attrelid = target::regclass and a.attnum > 0 and not a.attisdropped
                and (a.attname ~ '(_id|_key|^full_date|^is_current)$' or a.attname in ('valid_from', 'valid_to'))
        ));
    end if;
end $$;
comment on function dw_maintain(text) is 'Refreshes or analyzes a target of the list, as its owner.';

-- The table is empty when this is called, and both calls are in one transaction: nobody ever sees it without indexes.
create or replace function dw_suspend_indexes(target text) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    item record;
begin
    for item in
        select c.relname, pg_get_indexdef(i.indexrelid) as definition
        from pg_index as i
        inner join pg_class as c on c.oid = i.indexrelid
        where i.indrelid = target::regclass and not i.indisprimary
            and target in (select t.target_table from dw_transformations as t)
            and not exists (select from pg_constraint as p where p.conindid = i.indexrelid)
    loop
        insert into dw_suspended_indexes (target_table, definition) values (target, item.definition);
        execute format('drop index %I', item.relname);
    end loop;
end $$;
comment on function dw_suspend_indexes(text) is 'Drops the indexes of an empty target until dw_resume_indexes, in the same transaction.';

create or replace function dw_resume_indexes(target text) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    definition text;
begin
    for definition in delete from dw_suspended_indexes as s where s.target_table = target returning s.definition loop
        execute definition;
    end loop;
end $$;
comment on function dw_resume_indexes(text) is 'Builds the indexes again that dw_suspend_indexes dropped.';

revoke execute on function dw_maintain(text), dw_suspend_indexes(text), dw_resume_indexes(text) from public;

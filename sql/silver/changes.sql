-- The change feed: which keys of a target have to be looked at.

create or replace function dw_sources(t dw_transformations) returns setof text
language sql stable as $$
    select unnest(t.sources)
    union
    select r.dimension from dw_references(t.target_table::regclass) as r where r.kind <> 'type0'
$$;
comment on function dw_sources(dw_transformations) is 'What a target reads: its sources, and the dimensions it points at.';

create or replace function dw_set_watermarks(t dw_transformations, oldest xid8, definition text) returns void
language sql as $$
    insert into dw_transformation_watermarks as w (target_table, source_table, watermark, definition)
    select t.target_table, s.name, oldest, definition from dw_sources(t) as s (name)
    on conflict (target_table, source_table) do update
    set watermark = excluded.watermark, definition = excluded.definition, updated_at = now()
$$;
comment on function dw_set_watermarks(dw_transformations, xid8, text) is 'Remembers that a target has seen every transaction before the given one.';

-- Why everything has to be compared, or null when the changes are enough.
create or replace function dw_full_pass_reason(t dw_transformations, definition text, newest xid8, full_refresh boolean)
returns text
language plpgsql stable as $$
declare
    w record;
begin
    if full_refresh then
        return 'asked for';
    end if;
    for w in
        select s.name, m.watermark, m.definition, m.updated_at
        from dw_sources(t) as s (name)
        left join dw_transformation_watermarks as m on m.target_table = t.target_table and m.source_table = s.name
    loop
        if w.watermark is null then
            return 'first load';
        elsif w.watermark > newest then
            return 'watermark ahead of the database: restored from a backup';
        elsif w.definition is distinct from definition then
            return 'the projection or the table changed';
        elsif t.keeps_history and w.updated_at < date_trunc('day', now(), 'UTC') then
            return 'a new day';
        end if;
    end loop;
    return null;
end $$;
comment on function dw_full_pass_reason(dw_transformations, text, xid8, boolean) is 'Why a target has to be compared as a whole, or null.';

-- Rows written since the watermark. A changed_xid beyond the newest transaction comes from a restored backup: it was
-- seen by the full pass after the restore.
create or replace function dw_changed_since(target text, source text, newest xid8) returns text
language sql stable as $$
    select format('changed_xid >= %L::xid8 and changed_xid <= %L::xid8', w.watermark, newest)
    from dw_transformation_watermarks as w
    where w.target_table = target and w.source_table = source
$$;
comment on function dw_changed_since(text, text, xid8) is 'The condition that selects what a target has not yet read of a source.';

-- Fills pg_temp.dw_delta with the keys to look at, and says how many there are.
create or replace function dw_collect_changes(t dw_transformations, newest xid8) returns bigint
language plpgsql as $$
declare
    keys text[] := dw_key_columns(t.target_table::regclass);
    source text;
    since text;
    found_any boolean := false;
    any_here boolean;
    branches text[] := '{}';
    tagged text;
    total bigint;
begin
    foreach source in array t.sources loop
        since := dw_changed_since(t.target_table, source, newest);
        execute format('select exists (select from %I where %s) or exists (select from dw_etl_deleted_records where target_table = %L and %s)',
            source, since, source, since) into any_here;
        found_any := found_any or any_here;
        if any_here and not t.derived then
            tagged := replace(array_to_string(keys, ', '), 'source_table', quote_literal(source) || '::text as source_table');
            branches := branches || format('select %s from %I where %s', tagged, source, since)
                || format('select %s from dw_etl_deleted_records where target_table = %L and %s and source_instance_id is not null and source_id is not null',
                    tagged, source, since);
            if to_regclass(dw_projection(t.target_table) || '_via_' || source) is not null then
                branches := branches || format('select %s from %I where %s', array_to_string(keys, ', '),
                    dw_projection(t.target_table) || '_via_' || source, since);
            end if;
        end if;
    end loop;
    if t.derived or not found_any then
        return found_any::integer;
    end if;
    perform dw_drop_temporary('dw_delta');
    execute 'create temp table dw_delta on commit drop as ' || array_to_string(branches, ' union ');
    get diagnostics total = row_count;
    analyze pg_temp.dw_delta;
    return total;
end $$;
comment on function dw_collect_changes(dw_transformations, xid8) is 'Fills pg_temp.dw_delta with the keys that changed or were deleted since the watermarks; returns how many.';

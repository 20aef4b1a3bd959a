-- From the projection's text to typed rows.
--
-- The cast of everything is tried at once, which costs good data nothing. Only when it fails are the rows asked one by
-- one; those that do not fit go to quarantine, by their key, and the rest is cast.

create or replace function dw_typed_columns(target regclass) returns table (name text, type text, expression text, is_cast boolean)
language plpgsql stable as $$
declare
    view regclass := dw_projection(target::text)::regclass;
    wanted record;
    given text;
begin
    for wanted in
        select a.name, a.type from dw_attributes(target) as a
        union all
        select 'source_time', 'timestamp with time zone'
        from pg_attribute as p where p.attrelid = view and p.attname = 'source_time'
    loop
        select format_type(p.atttypid, p.atttypmod) into given
        from pg_attribute as p
        where p.attrelid = view and p.attname = wanted.name and p.attnum > 0 and not p.attisdropped;
        if given is null then
            raise exception '% has no column %, which % needs', view, wanted.name, target;
        end if;
        name := wanted.name;
        type := wanted.type;
        is_cast := given = 'text' and wanted.type <> 'text';
        expression := case
            when given = wanted.type then format('v.%I', name)
            when is_cast then format('nullif(v.%I, '''')::%s as %I', name, type, name)
            else format('v.%I::%s', name, type) end;
        return next;
    end loop;
end $$;
comment on function dw_typed_columns(regclass) is 'How each column of a target is made from its projection.';

create or replace function dw_collect_batch(t dw_transformations, whole boolean, run_id bigint, out read bigint, out rejected bigint)
language plpgsql as $$
declare
    target regclass := t.target_table::regclass;
    keys text[] := dw_key_columns(target);
    key_list text := (select string_agg(format('v.%I', k), ', ') from unnest(keys) as k);
    same_key text := (select string_agg(format('v.%1$I = d.%1$I', k), ' and ') from unnest(keys) as k);
    columns text := (select string_agg(c.expression, ', ') from dw_typed_columns(target) as c);
    checked text := (
        select string_agg(format('(%L, nullif(v.%I, ''''), %L)', c.name, c.name, c.type), ', ')
        from dw_typed_columns(target) as c where c.is_cast
    );
    source text := format('from %I as v', dw_projection(t.target_table))
        || case when whole then '' else format(' inner join pg_temp.dw_delta as d on %s', same_key) end;
    observed text := case when t.kind = 'scd2' then ', v.observed_at' else '' end;
    staging text := case when 'source_table' = any (keys) then 'd.source_table' else quote_literal(t.sources[1]) end;
begin
    perform dw_drop_temporary('dw_batch', 'dw_bad');
    create temp table dw_bad (
        source_instance_id integer, source_table text, parent_source_id text, source_id text, column_name text, type text
    ) on commit drop;
    rejected := 0;
    begin
        execute format('create temp table dw_batch on commit drop as select %s%s, %s %s', key_list, observed, columns, source);
        get diagnostics read = row_count;
    exception when data_exception then
        execute format('insert into pg_temp.dw_bad (%s, column_name, type)
            select %s, c.name, c.type %s cross join lateral (values %s) as c (name, value, type)
            where c.value is not null and not dw_castable(c.value, c.type)',
            array_to_string(keys, ', '), key_list, source, checked);
        execute format('create temp table dw_batch on commit drop as
            with good as materialized (
                select v.* %s
                where not exists (select from pg_temp.dw_bad as b where %s)
            )
            select %s%s, %s from good as v',
            source, replace(same_key, ' d.', ' b.'), key_list, observed, columns);
        get diagnostics read = row_count;
    end;
    -- What stands in quarantine is what is wrong now: the rows just looked at leave it, unless they are still wrong.
    execute format('delete from dw_transformation_rejected_rows as r
        where r.procedure_name = %L and not exists (
            select from pg_temp.dw_bad as d
            where d.source_instance_id = r.source_instance_id and %s = r.staging_table
                and d.parent_source_id = r.parent_source_id and d.source_id = r.source_id and d.column_name = r.column_name)',
        t.procedure_name, staging)
        || case when whole then '' else format(' and exists (
            select from pg_temp.dw_delta as d
            where d.source_instance_id = r.source_instance_id and %s = r.staging_table
                and d.parent_source_id = r.parent_source_id and d.source_id = r.source_id)', staging) end;
    execute format('insert into dw_transformation_rejected_rows as r (
            procedure_name, staging_table, source_instance_id, parent_source_id, source_id, column_name, reason, transformation_run_id)
        select %L, %s, d.source_instance_id, d.parent_source_id, d.source_id, d.column_name, ''cannot be read as '' || d.type, %L
        from pg_temp.dw_bad as d
        on conflict (procedure_name, staging_table, source_instance_id, parent_source_id, source_id, column_name)
        do update set reason = excluded.reason, transformation_run_id = excluded.transformation_run_id, last_seen_at = now()',
        t.procedure_name, staging, run_id);
    execute format('select count(*) from (select distinct %s from pg_temp.dw_bad) as d', array_to_string(keys, ', ')) into rejected;
    if rejected > 0 then
        raise notice '% rejected % rows: see dw_transformation_rejected_rows', t.procedure_name, rejected;
    end if;
end $$;
comment on function dw_collect_batch(dw_transformations, boolean, bigint) is 'Fills pg_temp.dw_batch with typed rows, and the quarantine with those that cannot be typed.';

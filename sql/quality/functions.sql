-- What the checks count. Each takes the tables and their columns from the list of transformations and the catalog.

create or replace function dw_count_over_targets(kinds text[], template text) returns bigint
language plpgsql stable as $$
declare
    t dw_transformations;
    found bigint;
    total bigint := 0;
begin
    for t in select * from dw_transformations as l where l.kind = any (kinds) loop
        execute replace(replace(replace(replace(template,
            '{table}', quote_ident(t.target_table)),
            '{surrogate}', quote_ident(dw_surrogate_key(t.target_table::regclass))),
            '{keys}', array_to_string(dw_key_columns(t.target_table::regclass), ', ')),
            '{live}', case t.kind when 'scd2' then 'is_current' when 'type1' then 'deleted_at is null' else 'true' end)
        into found;
        total := total + coalesce(found, 0);
    end loop;
    return total;
end $$;
comment on function dw_count_over_targets(text[], text) is 'Sums a query over the tables of some kinds; {table}, {surrogate}, {keys} and {live} stand for each table''s own.';

create or replace function dw_count_over_references(template text, kinds text[]) returns bigint
language plpgsql stable as $$
declare
    r record;
    found bigint;
    total bigint := 0;
begin
    for r in
        select l.target_table, x.*
        from dw_transformations as l cross join lateral dw_references(l.target_table::regclass) as x
        where l.kind = 'fact' and x.kind = any (kinds)
    loop
        execute replace(replace(replace(replace(replace(template,
            '{fact}', quote_ident(r.target_table)), '{key}', quote_ident(r.key_column)), '{id}', quote_ident(r.id_column)),
            '{dimension}', quote_ident(r.dimension)),
            '{dimension_key}', case r.kind when 'type0' then 'date_key' else quote_ident(dw_surrogate_key(r.dimension::regclass)) end)
        into found;
        total := total + found;
    end loop;
    return total;
end $$;
comment on function dw_count_over_references(text, text[]) is 'Sums a query over everything the facts point at; {fact}, {key}, {id}, {dimension} and {dimension_key} stand for each one''s own.';

create or replace function dw_count_unreconciled() returns bigint
language plpgsql stable as $$
declare
    t dw_transformations;
    keys text;
    difference bigint;
    total bigint := 0;
begin
    for t in select * from dw_transformations as l where l.kind in ('scd2', 'type1', 'fact') and not l.keeps_history loop
        keys := (
            select string_agg(format('o.%1$I = r.%2$I', k, case k when 'source_table' then 'staging_table' else k end), ' and ')
            from unnest(dw_key_columns(t.target_table::regclass)) as k
        );
        execute format('select abs(
                (select count(*) from %I)
                - (select count(*) from %I as o where o.%I > 0 and %s)
                - (
                    select count(*) from (
                        select distinct r.staging_table, r.source_instance_id, r.parent_source_id, r.source_id
                        from dw_transformation_rejected_rows as r
                        where r.procedure_name = %L and not exists (select from %I as o where %s and %s)
                    ) as q
                )
            )', dw_projection(t.target_table), t.target_table, dw_surrogate_key(t.target_table::regclass), dw_live(t.kind),
            t.procedure_name, t.target_table, keys, dw_live(t.kind))
        into difference;
        total := total + difference;
    end loop;
    return total;
end $$;
comment on function dw_count_unreconciled() is 'Rows that staging offers, and that are neither in the warehouse nor in quarantine; and the other way round.';

create or replace function dw_live(kind text) returns text
language sql immutable as $$
    select case kind when 'scd2' then 'o.is_current' when 'type1' then 'o.deleted_at is null' else 'true' end
$$;
comment on function dw_live(text) is 'The condition for rows (alias o) that hold now.';

create or replace function dw_measure_tables(batch_id uuid) returns void
language plpgsql as $$
declare
    t dw_transformations;
    counts text;
begin
    for t in select * from dw_transformations as l where l.kind in ('scd2', 'type1', 'fact') and not l.keeps_history loop
        counts := (select string_agg(format('%L, count(o.%I)', a.name, a.name), ', ') from dw_attributes(t.target_table::regclass) as a);
        execute format('
            insert into dw_quality_measures (batch_id, table_name, column_name, value)
            select %L, %L, m.key, case when m.key = '''' then m.value::bigint else 1 - m.value::float8 / c.total end
            from (
                select count(*) as total, jsonb_build_object('''', count(*), %s) as counts from %I as o where o.%I > 0 and %s
            ) as c
            cross join lateral jsonb_each_text(c.counts) as m
            where m.key = '''' or c.total > 0',
            batch_id, t.target_table, counts, t.target_table, dw_surrogate_key(t.target_table::regclass), dw_live(t.kind));
    end loop;
end $$;
comment on function dw_measure_tables(uuid) is 'Writes row counts and null rates into dw_quality_measures.';

create or replace function dw_compared_measures()
returns table (table_name text, column_name text, value double precision, usual double precision, earlier bigint)
language sql stable as $$
    with batches as (
        select batch_id, row_number() over (order by max(measured_at) desc) as age from dw_quality_measures group by batch_id
    )
    select
        m.table_name,
        m.column_name,
        max(m.value) filter (where b.age = 1),
        percentile_cont(0.5) within group (order by m.value) filter (where b.age between 2 and 31),
        count(*) filter (where b.age between 2 and 31)
    from dw_quality_measures as m
    inner join batches as b on b.batch_id = m.batch_id and b.age <= 31
    group by m.table_name, m.column_name
$$;
comment on function dw_compared_measures() is 'The latest measures beside the median of up to 30 earlier ones.';

create or replace function dw_check(name text, severity text, description text, query text) returns void
language sql as $$
    insert into dw_quality_checks (name, severity, description, query) values ($1, $2, $3, $4)
    on conflict (name) do update set severity = excluded.severity, description = excluded.description, query = excluded.query
$$;
comment on function dw_check(text, text, text, text) is 'Puts a check on the list; whether it is active stays as the operator left it.';

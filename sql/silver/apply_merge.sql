-- Tables without history (Type 1 dimensions and facts): insert, overwrite, remove, so that the table equals the projection.

-- The condition under which a fact's row (alias) points at a row of a dimension (alias).
create or replace function dw_points_at(
    kind text, id_column text, parent_id_column text, fact text, dimension text
) returns text
language sql immutable as $$
    select case
        when kind = 'type0' then format('%I.full_date = (%I.%I at time zone ''UTC'')::date', dimension, fact, id_column)
        else format('%1$I.source_instance_id = %2$I.source_instance_id and %1$I.source_id = %2$I.%3$I and %1$I.parent_source_id = ',
            dimension, fact, id_column)
            || case when parent_id_column is null then '''''' else format('dw_key_part(%I.%I)', fact, parent_id_column) end
            || case when kind = 'scd2' then format(
                ' and coalesce(%1$I.event_time, ''infinity'') >= %2$I.valid_from and (coalesce(%1$I.event_time, ''infinity'') < %2$I.valid_to or %2$I.is_current)',
                fact, dimension) else '' end
    end
$$;
comment on function dw_points_at(text, text, text, text, text) is 'The join condition between a fact and a dimension: the version valid at event_time, the open one when that is unknown.';

create or replace function dw_resolved_batch(target regclass) returns text
language sql stable as $$
    select format('select b.*%s from pg_temp.dw_batch as b %s',
        string_agg(format(', coalesce(%I.%I, -1) as %I', r.key_column || '_of',
            case r.kind when 'type0' then 'date_key' else r.key_column end, r.key_column), '' order by r.key_column),
        string_agg(format('left join %I as %I on %s', r.dimension, r.key_column || '_of',
            dw_points_at(r.kind, r.id_column, r.parent_id_column, 'b', r.key_column || '_of')), ' ' order by r.key_column))
    from dw_references(target) as r
$$;
comment on function dw_resolved_batch(regclass) is 'A query: pg_temp.dw_batch with the dimension keys of each row, -1 where there is none.';

create or replace function dw_apply_merge(
    t dw_transformations, whole boolean, run_id bigint, out inserted bigint, out updated bigint, out deleted bigint
)
language plpgsql as $$
declare
    target regclass := t.target_table::regclass;
    surrogate text := dw_surrogate_key(target);
    keys text[] := dw_key_columns(target);
    names text[] := array(select a.name from dw_attributes(target) as a union all select r.key_column from dw_references(target) as r);
    key_list text := array_to_string(keys, ', ');
    name_list text := (select string_agg(format('%I', n), ', ') from unnest(names) as n);
    new_row text := (select string_agg(format('b.%I', n), ', ') from unnest(names) as n);
    old_row text := (select string_agg(format('o.%I', n), ', ') from unnest(names) as n);
    assigned text := (select string_agg(format('%1$I = b.%1$I', n), ', ') from unnest(names) as n);
    same text := (select string_agg(format('o.%1$I = b.%1$I', k), ' and ') from unnest(keys) as k);
    is_type1 boolean := t.kind = 'type1';
    is_empty boolean;
    insertion text;
begin
    updated := 0;
    deleted := 0;
    insertion := format('insert into %s (%s, %s, transformation_run_id) select %s, %s, %L',
        target, key_list, name_list, (select string_agg(format('b.%I', k), ', ') from unnest(keys) as k), new_row, run_id);
    execute format('select not exists (select from %s where %I > 0)', target, surrogate) into is_empty;
    if is_empty then
        perform dw_suspend_indexes(t.target_table);
        execute format('%s from (%s) as b', insertion, dw_resolved_batch(target));
        get diagnostics inserted = row_count;
        perform dw_resume_indexes(t.target_table);
        return;
    end if;

    perform dw_drop_temporary('dw_changes');
    execute format('create temp table dw_changes on commit drop as
        select b.*, o.%I as old_key from (%s) as b left join %s as o on %s
        where o.%I is null or (%s) is distinct from (%s) %s',
        surrogate, dw_resolved_batch(target), target, same, surrogate, old_row, new_row,
        case when is_type1 then 'or o.deleted_at is not null' else '' end);
    execute format('update %s as o set %s, updated_at = now(), changed_xid = pg_current_xact_id() %s
        from pg_temp.dw_changes as b where o.%I = b.old_key',
        target, assigned, case when is_type1 then ', deleted_at = null' else '' end, surrogate);
    get diagnostics updated = row_count;
    execute insertion || ' from pg_temp.dw_changes as b where b.old_key is null';
    get diagnostics inserted = row_count;

    if not t.keeps_history then
        execute format('%s o.%I > 0 %s
            and not exists (select from pg_temp.dw_batch as b where %s)
            and not exists (select from pg_temp.dw_bad as b where %s)',
            case when is_type1
                then format('update %s as o set deleted_at = now(), updated_at = now(), changed_xid = pg_current_xact_id() where o.deleted_at is null and', target)
                else format('delete from %s as o where', target) end,
            surrogate,
            case when whole then '' else format('and exists (select from pg_temp.dw_delta as b where %s)', same) end, same, same);
        get diagnostics deleted = row_count;
    end if;
end $$;
comment on function dw_apply_merge(dw_transformations, boolean, bigint) is 'Makes a Type 1 dimension or a fact equal to pg_temp.dw_batch.';

-- A dimension's new version, a late member, a deletion: the facts concerned are pointed at the right version again.
create or replace function dw_repoint_facts(t dw_transformations, newest xid8) returns bigint
language plpgsql as $$
declare
    target regclass := t.target_table::regclass;
    surrogate text := dw_surrogate_key(target);
    r record;
    since text;
    any_here boolean;
    moved bigint;
    total bigint := 0;
begin
    for r in select * from dw_references(target) as x where x.kind <> 'type0' loop
        since := dw_changed_since(t.target_table, r.dimension, newest);
        execute format('select exists (select from %I where %s)', r.dimension, since) into any_here;
        continue when not any_here;
        execute format($sql$
            update %1$s as f
            set %2$I = n.new_key, updated_at = now(), changed_xid = pg_current_xact_id()
            from (
                select b.%3$I as fact_key, coalesce(d.%2$I, -1) as new_key
                from %1$s as b
                inner join (
                    select distinct source_instance_id, parent_source_id, source_id from %4$I where %5$s and %2$I > 0
                ) as k on %6$s
                left join %4$I as d on %7$s
            ) as n
            where f.%3$I = n.fact_key and f.%2$I <> n.new_key
            $sql$, target, r.key_column, surrogate, r.dimension, since,
            dw_points_at('type1', r.id_column, r.parent_id_column, 'b', 'k'),
            dw_points_at(r.kind, r.id_column, r.parent_id_column, 'b', 'd'));
        get diagnostics moved = row_count;
        total := total + moved;
    end loop;
    return total;
end $$;
comment on function dw_repoint_facts(dw_transformations, xid8) is 'Points facts at the version that is now the right one, where a dimension changed.';

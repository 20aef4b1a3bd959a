-- A versioned dimension: compare with the open versions, close what changed or went, open what is new.
--
-- Intervals are [valid_from, valid_to). A key's first version holds from -infinity, so that earlier facts find it. Later
-- ones begin at the source's own time (never later than now), else at the time the change was staged, but always after
-- the version before: several changes a day, and a change under the same timestamp, are all kept.
create or replace function dw_apply_scd2(
    t dw_transformations, whole boolean, run_id bigint, out inserted bigint, out expired bigint
)
language plpgsql as $$
declare
    target regclass := t.target_table::regclass;
    surrogate text := dw_surrogate_key(target);
    keys text[] := dw_key_columns(target);
    names text[] := array(select a.name from dw_attributes(target) as a);
    key_list text := array_to_string(keys, ', ');
    same_open text := (select string_agg(format('o.%1$I = b.%1$I', k), ' and ') from unnest(keys) as k);
    old_row text := (select string_agg(format('o.%I', n), ', ') from unnest(names) as n);
    new_row text := (select string_agg(format('b.%I', n), ', ') from unnest(names) as n);
    name_list text := (select string_agg(format('%I', n), ', ') from unnest(names) as n);
    source_time text := case when exists (
        select from dw_typed_columns(target) as c where c.name = 'source_time') then 'b.source_time' else 'null::timestamptz' end;
    is_empty boolean;
    gone bigint;
begin
    execute format('select not exists (select from %s where %I > 0)', target, surrogate) into is_empty;
    if is_empty then
        perform dw_suspend_indexes(t.target_table);
        execute format('insert into %s (%s, %s, valid_from, transformation_run_id) select %s, %s, ''-infinity'', %L from pg_temp.dw_batch as b',
            target, key_list, name_list, key_list, new_row, run_id);
        get diagnostics inserted = row_count;
        perform dw_resume_indexes(t.target_table);
        expired := 0;
        return;
    end if;

    perform dw_drop_temporary('dw_changes');
    -- .NET writes 0001-01-01 for "no date": it is no source time.
    execute format($sql$
        create temp table dw_changes on commit drop as
        with changed as (
            select
                b.*, o.%1$I as open_key, o.valid_from as open_from,
                coalesce(case when %2$s > '1900-01-01' then least(%2$s, now()) end, least(b.observed_at, now()), now()) as at
            from pg_temp.dw_batch as b
            left join %3$s as o on %4$s and o.valid_to = 'infinity' and o.%1$I > 0
            where o.%1$I is null or (%5$s) is distinct from (%6$s)
        )
        select
            b.*,
            case
                when b.open_key is not null then greatest(b.at, b.open_from + interval '1 microsecond')
                else coalesce(
                    (select greatest(b.at, max(o.valid_to)) from %3$s as o where %4$s having count(*) > 0), '-infinity'
                )
            end as new_from
        from changed as b
        $sql$, surrogate, source_time, target, same_open, old_row, new_row);
    execute format('update %s as o set valid_to = b.new_from, changed_xid = pg_current_xact_id()
        from pg_temp.dw_changes as b where o.%I = b.open_key', target, surrogate);
    get diagnostics expired = row_count;
    execute format('insert into %s (%s, %s, valid_from, transformation_run_id) select %s, %s, b.new_from, %L from pg_temp.dw_changes as b',
        target, key_list, name_list, key_list, new_row, run_id);
    get diagnostics inserted = row_count;

    -- Gone: looked at, and neither projected nor in quarantine.
    execute format($sql$
        update %1$s as o
        set valid_to = greatest(
                coalesce(
                    (
                        select max(least(b.deleted_at, now())) from dw_etl_deleted_records as b
                        where b.target_table = any (%2$L::text[]) and b.deleted_at > o.valid_from and %3$s
                    ), now()
                ), o.valid_from + interval '1 microsecond'
            ),
            changed_xid = pg_current_xact_id()
        where o.valid_to = 'infinity' and o.%4$I > 0
            %5$s
            and not exists (select from pg_temp.dw_batch as b where %6$s)
            and not exists (select from pg_temp.dw_bad as b where %6$s)
        $sql$, target, t.sources, replace(same_open, 'b.source_table', 'b.target_table'), surrogate,
        case when whole then '' else format('and exists (select from pg_temp.dw_delta as b where %s)', same_open) end, same_open);
    get diagnostics gone = row_count;
    expired := expired + gone;

    perform dw_refuse_overlaps(target, not whole);
end $$;
comment on function dw_apply_scd2(dw_transformations, boolean, bigint) is 'Opens and closes versions of a dimension from pg_temp.dw_batch.';

create or replace function dw_refuse_overlaps(target regclass, touched_only boolean default false) returns void
language plpgsql as $$
declare
    keys text[] := dw_key_columns(target);
    same text := (select string_agg(format('o.%1$I = b.%1$I', k), ' and ') from unnest(keys) as k);
    found bigint;
begin
    execute format($sql$
        select count(*) from (
            select o.valid_to > lead(o.valid_from) over (partition by %s order by o.valid_from) as is_overlapping
            from %s as o
            %s
        ) as v where v.is_overlapping
        $sql$, (select string_agg('o.' || k, ', ') from unnest(keys) as k), target,
        case when touched_only
            then format('where exists (select from pg_temp.dw_changes as b where %s) or exists (select from pg_temp.dw_delta as b where %s)', same, same)
            else '' end) into found;
    if found > 0 then
        raise exception '% has % overlapping versions: the load is undone', target, found;
    end if;
end $$;
comment on function dw_refuse_overlaps(regclass, boolean) is 'Raises when two versions of a key overlap.';

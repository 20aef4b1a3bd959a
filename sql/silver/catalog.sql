-- What the engine knows of a target, it reads from the catalog: its key, its attributes, what it points at.

create or replace function dw_key_columns(target regclass) returns text[]
language sql stable as $$
    select array_agg(c.name order by c.place)
    from unnest(array['source_instance_id', 'source_table', 'parent_source_id', 'source_id']) with ordinality as c (name, place)
    inner join pg_attribute as a on a.attrelid = target and a.attname = c.name
$$;
comment on function dw_key_columns(regclass) is 'The columns that identify a record in a warehouse table.';

create or replace function dw_surrogate_key(target regclass) returns text
language sql stable as $$
    select attname::text from pg_attribute where attrelid = target and attidentity <> ''
$$;
comment on function dw_surrogate_key(regclass) is 'The surrogate key column of a warehouse table.';

create or replace function dw_references(target regclass)
returns table (key_column text, dimension text, kind text, id_column text, parent_id_column text)
language sql stable as $$
    select
        a.attname::text,
        d.target_table,
        d.kind,
        case d.kind when 'type0' then regexp_replace(a.attname, '_date_key$', '_time') else d.name || '_id' end,
        d.parent_reference || '_id'
    from pg_attribute as a
    inner join (
        select t.*, regexp_replace(t.target_table, '^dw_dim_', '') as name
        from dw_transformations as t
        where t.target_table like 'dw\_dim\_%'
    ) as d
        on a.attname = d.name || '_key' or (d.kind = 'type0' and a.attname like '%\_' || d.name || '\_key')
    where a.attrelid = target and a.attnum > 0 and not a.attisdropped and a.attidentity = ''
        and target::text like 'dw\_fact\_%'
    order by a.attnum
$$;
comment on function dw_references(regclass) is 'The dimensions a fact points at: <name>_key by <name>_id, <name>_date_key by <name>_time.';

create or replace function dw_attributes(target regclass) returns table (name text, type text)
language sql stable as $$
    select a.attname::text, format_type(a.atttypid, a.atttypmod)
    from pg_attribute as a
    where a.attrelid = target and a.attnum > 0 and not a.attisdropped
        and a.attidentity = '' and a.attgenerated = ''
        and a.attname <> all (dw_key_columns(target))
        and a.attname not in (
            'valid_from', 'valid_to', 'updated_at', 'deleted_at', 'changed_xid', 'transformation_run_id', 'created_at'
        )
        and a.attname not in (select r.key_column from dw_references(target) as r)
    order by a.attnum
$$;
comment on function dw_attributes(regclass) is 'The columns that come from the projection: all of them are tracked.';

create or replace function dw_projection(target text) returns text
language sql immutable as $$
    select 'stg_' || regexp_replace(target, '^dw_', '')
$$;
comment on function dw_projection(text) is 'The view that projects staging for a target: stg_dim_study for dw_dim_study.';

create or replace function dw_register(
    procedure_name text,
    kind text,
    "position" integer,
    sources text[] default '{}',
    depends_on text[] default '{}',
    parent_reference text default null,
    derived boolean default false,
    keeps_history boolean default false,
    target_table text default null
) returns void
language plpgsql as $$
begin
    insert into dw_transformations as t (
        procedure_name, target_table, kind, sources, depends_on, parent_reference, derived, keeps_history, position
    ) values (
        $1, coalesce($9, regexp_replace($1, '^load_', '')), $2, $4, $5, $6, $7, $8, $3
    )
    on conflict on constraint dw_transformations_pkey do update
    set target_table = excluded.target_table, kind = excluded.kind, sources = excluded.sources, depends_on = excluded.depends_on,
        parent_reference = excluded.parent_reference, derived = excluded.derived, keeps_history = excluded.keeps_history,
        position = excluded.position;
end $$;
comment on function dw_register(text, text, integer, text[], text[], text, boolean, boolean, text) is 'Puts a load procedure on the list dw_transformations. Called by the file that creates the procedure.';

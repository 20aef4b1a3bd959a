-- A staging table of the old kind (no unique key, a history of blind inserts) becomes one of the new kind, in place and in
-- one transaction: the newest row of every key stays with its id and its times, all others go to dw_etl_deleted_records.
-- p_rule says how a record is keyed: {"rule": "fields", "fields": ["id"], "parents": [["study.id"]]}, where parents holds
-- per parameter of the path the fields that may name it. Without a rule (a table the catalog does not know) a row keeps
-- the id, the source_id or the content it has as its key.
create or replace function dw_upgrade_staging_table(
    p_table text,
    p_rule jsonb,
    p_description text,
    out kept bigint,
    out archived bigint
)
language plpgsql
set client_min_messages = warning
as $$
declare
    relation constant regclass := format('public.%I', p_table)::regclass;
    rule constant text := coalesce(p_rule ->> 'rule', 'any');
    default_instance constant integer := dw_default_instance();
    key_expression text;
    parent_expression text;
    instance_expression text := 'coalesce(t.source_instance_id::integer, j.source_instance_id, $1)';
    usual_instance integer;
    item record;
begin
    perform set_config('lock_timeout', '60s', true);
    execute format('lock table public.%I in access exclusive mode', p_table);

    -- Where no row says its instance, all get the usual one for nothing: a new column's default is stored once. Rows of
    -- another instance's jobs are corrected below.
    if not exists (
        select from pg_attribute as a
        where a.attrelid = relation and a.attname = 'source_instance_id' and not a.attisdropped
    ) then
        select coalesce(
            (
                select j.source_instance_id from dw_etl_jobs as j
                where j.target_table = p_table and j.source_instance_id is not null
                order by j.id limit 1
            ), default_instance
        )
        into usual_instance;
        instance_expression := 'coalesce(j.source_instance_id, $1)';
        execute format('alter table public.%I add column source_instance_id integer default %s', p_table, usual_instance);
        execute format('alter table public.%I alter column source_instance_id drop default', p_table);
    end if;

    -- The columns. None of these defaults rewrites the table; times of old rows that were never known stay unknown.
    for item in
        select d.name, d.definition, d.later
        from (
            values
            (1, 'id', 'serial', null),
            (2, 'source_id', 'varchar(255)', null),
            (3, 'etl_job_id', 'integer', null),
            (4, 'etl_run_id', 'integer', null),
            (5, 'loaded_at', 'timestamp', 'now()'),
            (6, 'created_at', 'timestamp', 'now()'),
            (7, 'updated_at', 'timestamp', 'now()'),
            (8, 'parent_source_id', 'text not null default ''''', ''''''),
            (9, 'content_hash', 'bytea', null),
            (10, 'changed_xid', 'xid8 not null default pg_current_xact_id()', null)
        ) as d (place, name, definition, later)
        order by d.place
    loop
        execute format('alter table public.%I add column if not exists %I %s', p_table, item.name, item.definition);
        if item.later is not null then
            execute format('alter table public.%I alter column %I set default %s', p_table, item.name, item.later);
        end if;
    end loop;

    -- How a row is keyed.
    select string_agg(
        case
            when jsonb_array_length(p_rule -> 'fields') = 1 then dw_field_expression(f.name)
            else format('dw_key_part(%s)', dw_field_expression(f.name))
        end, ' || ''/'' || ' order by f.place
    )
    into key_expression
    from jsonb_array_elements_text(p_rule -> 'fields') with ordinality as f (name, place);
    select string_agg(
        format(
            'dw_key_part(coalesce(%s))',
            (select string_agg(dw_field_expression(f.name), ', ') from jsonb_array_elements_text(p.fields) as f (name))
        ), ' || ''/'' || ' order by p.place
    )
    into parent_expression
    from jsonb_array_elements(p_rule -> 'parents') with ordinality as p (fields, place);
    parent_expression := coalesce(parent_expression, '''''');
    key_expression := case rule
        when 'fields' then key_expression
        when 'value' then 'case when jsonb_typeof(t.data) in (''string'', ''number'') then nullif(t.data #>> ''{}'', '''') end'
        when 'single' then format('coalesce(nullif(%s, ''''), ''instance'')', parent_expression)
        when 'content' then 'null::text'
        else format('coalesce(%s, t.source_id, ''md5:'' || md5(t.data::text))', dw_field_expression('id'))
    end;

    -- Every row with its key, its place among the rows of that key (1 is the newest), and why it cannot stay, if so.
    drop table if exists pg_temp.dw_upgrade_rows;
    execute format(
        'create temporary table dw_upgrade_rows on commit drop as
        select
            k.*,
            row_number() over (
                partition by k.instance, k.parent, k.key, k.reason is null order by k.stamp desc nulls last, k.id desc
            ) as place
        from (
            select
                r.*,
                case
                    when r.empty then ''no data at upgrade''
                    when %3$L = ''content'' then ''keyed by its content since the upgrade: loaded again''
                    when r.parent is null then ''parent unknown at upgrade: loaded again with its parent''
                    when r.key is null or length(r.key) > 255 then ''no usable key at upgrade''
                end as reason
            from (
                select
                    t.ctid as place_on_disk,
                    t.id,
                    t.data is null as empty,
                    %5$s as instance,
                    %1$s as parent,
                    %2$s as key,
                    greatest(t.loaded_at, t.updated_at, t.created_at) as stamp
                from public.%4$I as t
                left join dw_etl_jobs as j on j.id = t.etl_job_id
            ) as r
        ) as k', parent_expression, key_expression, rule, p_table, instance_expression
    ) using default_instance;
    analyze dw_upgrade_rows;

    execute format(
        'insert into dw_etl_deleted_records (
            source_instance_id, etl_job_id, etl_run_id, target_table, parent_source_id, source_id, data, reason, loaded_at
        )
        select
            u.instance, t.etl_job_id, t.etl_run_id, %1$L, coalesce(u.parent, ''''), coalesce(u.key, t.source_id),
            coalesce(t.data, ''null''), coalesce(u.reason, ''superseded duplicate at upgrade''), t.loaded_at
        from pg_temp.dw_upgrade_rows as u
        inner join public.%1$I as t on t.ctid = u.place_on_disk
        where u.reason is not null or u.place > 1
        order by u.id', p_table
    );
    get diagnostics archived = row_count;
    if archived > 0 then
        execute format(
            'delete from public.%I as t using pg_temp.dw_upgrade_rows as u
            where t.ctid = u.place_on_disk and (u.reason is not null or u.place > 1)', p_table
        );
    end if;
    execute format(
        'update public.%I as t
        set source_instance_id = u.instance, parent_source_id = u.parent, source_id = u.key
        from pg_temp.dw_upgrade_rows as u
        where t.ctid = u.place_on_disk and u.reason is null and u.place = 1
            and (t.source_instance_id, t.parent_source_id, t.source_id)
                is distinct from (u.instance, u.parent, u.key::varchar)', p_table
    );
    execute format('select count(*) from public.%I', p_table) into kept;

    -- Rows are addressed by id.
    if not exists (
        select from pg_index as i
        inner join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
        where i.indrelid = relation and i.indisunique and i.indnkeyatts = 1 and i.indpred is null and a.attname = 'id'
    ) then
        if exists (
            select from pg_attribute as a
            where a.attrelid = relation and a.attname = 'id' and not a.atthasdef and a.attidentity = ''
        ) then
            execute format('create sequence public.%I owned by public.%I.id', p_table || '_id_numbers', p_table);
            execute format(
                'select setval(%L, coalesce((select max(t.id) from public.%I as t), 0) + 1, false)',
                format('public.%I', p_table || '_id_numbers'), p_table
            );
            execute format(
                'alter table public.%I alter column id set default nextval(%L)',
                p_table, format('public.%I', p_table || '_id_numbers')
            );
        end if;
        execute format(
            'update public.%1$I as t set id = default
            from (
                select s.ctid, row_number() over (partition by s.id order by s.ctid) as place, s.id from public.%1$I as s
            ) as d
            where t.ctid = d.ctid and (d.place > 1 or d.id is null)', p_table
        );
        execute format('create unique index %I on public.%I (id)', p_table || '_id', p_table);
    end if;

    -- Columns that only the old loader filled must not refuse the rows of this one.
    for item in
        select a.attname
        from pg_attribute as a
        where a.attrelid = relation and a.attnum > 0 and not a.attisdropped and a.attnotnull and not a.atthasdef
            and a.attidentity = '' and a.attname not in ('id', 'data')
            and not exists (
                select from pg_index as i where i.indrelid = relation and i.indisprimary and a.attnum = any(i.indkey)
            )
    loop
        execute format('alter table public.%I alter column %I drop not null', p_table, item.attname);
    end loop;
    execute format(
        'alter table public.%I
            alter column data set not null,
            alter column source_id set not null,
            alter column source_instance_id set not null,
            alter column parent_source_id set not null,
            alter column changed_xid set not null,
            alter column changed_xid set default pg_current_xact_id()', p_table
    );
    perform dw_finish_staging_table(p_table, p_description);
    execute format('analyze public.%I', p_table);
end
$$;
comment on function dw_upgrade_staging_table(text, jsonb, text) is
'Upgrades one staging table of the old kind in place; returns how many rows stayed and how many were archived.';

-- What a new staging table and an upgraded one have in common: the unique key, the index of the change feed, when to
-- vacuum, and what the columns mean.
create or replace function dw_finish_staging_table(p_table text, p_description text) returns void
language plpgsql
as $$
declare
    item record;
begin
    -- content_hash travels along, so that the question "which of these differ" is answered by the index alone.
    execute format(
        'create unique index %I on public.%I (source_instance_id, parent_source_id, source_id) include (content_hash)',
        p_table || '_key', p_table
    );
    execute format('create index %I on public.%I (changed_xid)', p_table || '_changed', p_table);
    -- The largest tables have millions of rows: a fixed share of them would be a long wait for a vacuum.
    execute format(
        'alter table public.%I set (
            autovacuum_vacuum_scale_factor = 0.05,
            autovacuum_vacuum_insert_scale_factor = 0.05,
            autovacuum_analyze_scale_factor = 0.02
        )', p_table
    );
    if obj_description(format('public.%I', p_table)::regclass, 'pg_class') is null then
        execute format('comment on table public.%I is %L', p_table, p_description);
    end if;
    for item in
        select a.attname, d.meaning
        from (
            values
            ('id', 'Number of the row in this table; not the record''s own id.'),
            ('data', 'The record as the API served it.'),
            ('source_id', 'The record''s own key, by the rule of its endpoint.'),
            ('etl_job_id', 'Job that wrote the row last (dw_etl_jobs).'),
            ('etl_run_id', 'Run that wrote the row last (dw_etl_runs).'),
            ('loaded_at', 'When the record was inserted or changed here last.'),
            ('created_at', 'When the record was seen first.'),
            ('updated_at', 'When the record was changed here last.'),
            ('source_instance_id', 'Instance that served the record (dw_api_credentials).'),
            ('parent_source_id', 'Key of the record''s parent: the values of the path''s parameters, joined by /; empty for a listing.'),
            ('content_hash', 'Hash of the record''s bytes as served; null until the first load after an upgrade.'),
            ('changed_xid', 'Transaction that wrote the row last: what the change feed of silver goes by.')
        ) as d (name, meaning)
        inner join pg_attribute as a on a.attname = d.name
        where a.attrelid = format('public.%I', p_table)::regclass
            and col_description(a.attrelid, a.attnum) is null
    loop
        execute format('comment on column public.%I.%I is %L', p_table, item.attname, item.meaning);
    end loop;
end
$$;
comment on function dw_finish_staging_table(text, text) is 'Gives a staging table its indexes, its vacuum settings and its comments.';

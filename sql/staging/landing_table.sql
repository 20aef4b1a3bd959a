-- Where dlt lands the rows of one staging table that are new or differ, until the merge empties it.
create or replace function dw_landing_table(p_instance integer, p_table text) returns text
language plpgsql
set client_min_messages = warning
as $$
declare
    landing_schema constant text := 'trialsync_landing_' || p_instance;
begin
    if to_regclass(format('%I.%I', landing_schema, p_table)) is not null then
        return format('%I.%I', landing_schema, p_table);
    end if;
    perform dw_landing_schema(p_instance);
    -- Unlogged: after a crash of the server it is empty, which is what the next run wants anyway.
    execute format(
        'create unlogged table if not exists %I.%I (
            seq bigint not null,
            parent_source_id varchar not null,
            source_id varchar not null,
            content_hash bytea not null,
            data jsonb not null
        )', landing_schema, p_table
    );
    execute format(
        'comment on table %I.%I is %L', landing_schema, p_table,
        'Rows on their way to ' || p_table || '; filled by dlt, merged and emptied by dw_merge_landing.'
    );
    return format('%I.%I', landing_schema, p_table);
end
$$;
comment on function dw_landing_table(integer, text) is
'Makes the landing table of one instance and staging table where it is absent; returns its quoted name.';

-- The catalog's jobs, a row each. What an existing row says about itself wins; only what older databases do not know is
-- filled in.
create or replace function dw_seed_jobs(p_jobs jsonb) returns void
language sql
as $$
    insert into dw_etl_jobs (
        id, name, source_endpoint, target_table, is_active, requires_parameters, parameter_source_table,
        parameter_source_column, resource, category, inactive_reason
    )
    select
        c.id, c.name, c.source_endpoint, c.target_table, c.inactive_reason is null, c.parameter_source_table is not null,
        c.parameter_source_table, case when c.parameter_source_table is not null then 'data->>''id''' end,
        c.resource, c.category, c.inactive_reason
    from jsonb_to_recordset(p_jobs) as c (
        id integer, name text, source_endpoint text, target_table text, parameter_source_table text, resource text,
        category text, inactive_reason text
    )
    where not exists (select from dw_etl_jobs as j where j.id = c.id);

    update dw_etl_jobs as j
    set resource = c.resource,
        category = coalesce(j.category, c.category),
        parameter_source_table = coalesce(nullif(j.parameter_source_table, ''), c.parameter_source_table)
    from jsonb_to_recordset(p_jobs) as c (id integer, resource text, category text, parameter_source_table text)
    where j.id = c.id
        and (
            j.resource is distinct from c.resource
            or j.category is null
            or (coalesce(j.parameter_source_table, '') = '' and c.parameter_source_table is not null)
        );

    -- A job that an operator adds gets a number of its own.
    select setval(
        pg_get_serial_sequence('dw_etl_jobs', 'id'),
        greatest((select max(j.id) from dw_etl_jobs as j), nextval(pg_get_serial_sequence('dw_etl_jobs', 'id')))
    );
$$;
comment on function dw_seed_jobs(jsonb) is 'Inserts the catalog''s jobs that are absent, and names the others by their resource.';

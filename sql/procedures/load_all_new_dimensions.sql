-- The masters. Each procedure is committed on its own, so that a failure loses nothing of another; call them outside of
-- a transaction, as psql does by itself. What depends on a failed procedure is skipped, and the failure is raised at the end.
create or replace procedure dw_load_all(kinds text[], full_refresh boolean)
language plpgsql as $$
declare
    item record;
    broken text[] := '{}';
    cause text;
    state text;
    message text;
begin
    for item in
        select t.procedure_name, t.depends_on
        from dw_transformations as t where t.kind = any (kinds) order by t.position, t.procedure_name
    loop
        select d.name into cause from unnest(item.depends_on) as d (name) where d.name = any (broken) limit 1;
        if cause is null then
            begin
                execute format('call %I(full_refresh => %L)', item.procedure_name, full_refresh);
                state := null;
            exception when others then
                get stacked diagnostics state = returned_sqlstate, message = message_text;
            end;
            if state is not null then
                broken := broken || item.procedure_name;
                perform dw_fail_run(item.procedure_name, state, message, full_refresh);
            end if;
        else
            broken := broken || item.procedure_name;
            perform dw_fail_run(item.procedure_name, 'skipped', cause || ' did not succeed', full_refresh, status => 'skipped');
        end if;
        commit;
    end loop;
    if broken <> '{}' then
        raise exception 'not loaded: %. dw_transformation_runs.error says why', array_to_string(broken, ', ');
    end if;
end $$;
comment on procedure dw_load_all (text [], boolean) is 'Calls the listed procedures of the given kinds in order, each in its own transaction.';

create or replace procedure load_all_new_dimensions(full_refresh boolean default false)
language plpgsql as $$
begin
    call dw_load_all('{type0,type1,scd2}', full_refresh);
end $$;
comment on procedure load_all_new_dimensions (boolean) is 'Loads every dimension.';

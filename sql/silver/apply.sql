-- What every load procedure calls: one target brought up to date, in the caller's transaction.
create or replace function dw_apply(procedure_name text, full_refresh boolean default false, run_id bigint default null)
returns bigint
language plpgsql
set search_path from current
set timezone = 'UTC'
set datestyle = 'ISO, MDY'
set work_mem = '64MB'
set jit = off
as $$
declare
    t dw_transformations;
    oldest xid8;
    newest xid8;
    fingerprint text;
    reason text;
    whole boolean;
    changes bigint := 0;
    batch record;
    done record;
    moved bigint := 0;
begin
    select * into strict t from dw_transformations as l where l.procedure_name = dw_apply.procedure_name;
    -- One load of a table at a time. The snapshot is taken after the wait, and before anything is read.
    perform pg_advisory_xact_lock(hashtextextended('trialsync warehouse ' || t.target_table, 0));
    oldest := pg_snapshot_xmin(pg_current_snapshot());
    newest := pg_snapshot_xmax(pg_current_snapshot());
    run_id := dw_start_run(t.procedure_name, full_refresh, run_id);

    select md5(string_agg(c.name || c.type || c.expression, ',')
        || pg_get_viewdef(dw_projection(t.target_table)::regclass))
    into fingerprint
    from dw_typed_columns(t.target_table::regclass) as c;
    reason := dw_full_pass_reason(t, fingerprint, newest, full_refresh);
    whole := reason is not null;
    if not whole then
        changes := dw_collect_changes(t, newest);
        whole := t.derived and changes > 0;
    end if;

    if not whole and changes = 0 then
        select 0::bigint as read, 0::bigint as rejected into batch;
        select 0::bigint as inserted, 0::bigint as updated, 0::bigint as expired, 0::bigint as deleted into done;
    else
        batch := dw_collect_batch(t, whole, run_id);
        if t.kind = 'scd2' then
            select a.inserted, 0::bigint as updated, a.expired, 0::bigint as deleted into done from dw_apply_scd2(t, whole, run_id) as a;
        else
            select a.inserted, a.updated, 0::bigint as expired, a.deleted into done from dw_apply_merge(t, whole, run_id) as a;
        end if;
    end if;
    if t.kind = 'fact' and reason is null then
        moved := dw_repoint_facts(t, newest);
    end if;

    perform dw_set_watermarks(t, oldest, fingerprint);
    if reason is not null and done.inserted + done.updated > 0 then
        perform dw_maintain(t.target_table);
    end if;
    perform dw_finish_run(run_id, reason, batch.read, done.inserted, done.updated + moved, done.expired, done.deleted, batch.rejected);
    return run_id;
end $$;
comment on function dw_apply(text, boolean, bigint) is 'Brings the target of a load procedure up to date and closes its row in dw_transformation_runs, whose id it returns.';

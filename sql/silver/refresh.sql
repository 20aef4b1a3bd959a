-- A materialized view is refreshed, without blocking its readers, when there is something new: a changed source, or a day.
create or replace function dw_refresh(procedure_name text, full_refresh boolean default false, run_id bigint default null)
returns bigint
language plpgsql
set search_path from current
set timezone = 'UTC'
set jit = off
as $$
declare
    t dw_transformations;
    oldest xid8;
    newest xid8;
    reason text;
begin
    select * into strict t from dw_transformations as l where l.procedure_name = dw_refresh.procedure_name;
    perform pg_advisory_xact_lock(hashtextextended('trialsync warehouse ' || t.target_table, 0));
    oldest := pg_snapshot_xmin(pg_current_snapshot());
    newest := pg_snapshot_xmax(pg_current_snapshot());
    run_id := dw_start_run(t.procedure_name, full_refresh, run_id);
    reason := dw_full_pass_reason(t, '', newest, full_refresh);
    if reason is null and dw_collect_changes(t, newest) > 0 then
        reason := 'its source changed';
    end if;
    if reason is not null then
        perform dw_maintain(t.target_table);
    end if;
    perform dw_set_watermarks(t, oldest, '');
    perform dw_finish_run(run_id, reason);
    return run_id;
end $$;
comment on function dw_refresh(text, boolean, bigint) is 'Refreshes a materialized view when what it shows changed, and closes its row in dw_transformation_runs.';

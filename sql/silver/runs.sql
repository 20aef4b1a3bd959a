-- A call's row in dw_transformation_runs: made by whoever calls first, closed by the procedure itself.
create or replace function dw_start_run(procedure_name text, full_refresh boolean, run_id bigint) returns bigint
language plpgsql as $$
begin
    if run_id is null then
        insert into dw_transformation_runs (procedure_name, full_refresh) values ($1, $2) returning id into run_id;
    end if;
    return run_id;
end $$;
comment on function dw_start_run(text, boolean, bigint) is 'The row of this call: the one the caller made, or a new one.';

create or replace function dw_finish_run(
    run_id bigint,
    full_pass text default null,
    read bigint default 0,
    inserted bigint default 0,
    updated bigint default 0,
    expired bigint default 0,
    deleted bigint default 0,
    rejected bigint default 0
) returns void
language sql as $$
    update dw_transformation_runs
    set status = 'success', finished_at = clock_timestamp(), full_pass = $2, rows_read = $3, rows_inserted = $4, rows_updated = $5,
        rows_expired = $6, rows_deleted = $7, rows_rejected = $8
    where id = $1
$$;
comment on function dw_finish_run(bigint, text, bigint, bigint, bigint, bigint, bigint, bigint) is 'Closes the row of a call that succeeded.';

-- A failed call undid everything it did, its row included: this writes the row again, for the record.
create or replace function dw_fail_run(
    procedure_name text, state text, message text, full_refresh boolean, run_id bigint default null, status text default 'failed'
) returns void
language plpgsql as $$
declare
    -- The messages of class 22 quote the value.
    safe text := state || case when state like '22%' then ': a value does not fit; its message is withheld' else ': ' || message end;
begin
    if run_id is null then
        insert into dw_transformation_runs (procedure_name, full_refresh, status, finished_at, error)
        values ($1, $4, $6, clock_timestamp(), safe);
    else
        update dw_transformation_runs as r set status = $6, finished_at = clock_timestamp(), error = safe where r.id = $5;
    end if;
end $$;
comment on function dw_fail_run(text, text, text, boolean, bigint, text) is 'Records a call that failed or was skipped, without any value of a record.';

-- Two procedures may be called in one transaction, so what the first left behind has to go.
create or replace function dw_drop_temporary(variadic names text[]) returns void
language plpgsql
set client_min_messages = warning
as $$
declare
    name text;
begin
    foreach name in array names loop
        execute format('drop table if exists pg_temp.%I', name);
    end loop;
end $$;
comment on function dw_drop_temporary(text[]) is 'Drops temporary tables where they exist, without a word.';

-- Who was killed cannot say so: the next caller does.
create or replace function dw_close_dead_runs() returns bigint
language sql as $$
    with dead as (
        update dw_transformation_runs as r
        set status = 'failed', finished_at = clock_timestamp(), error = 'the session ended before the procedure did; nothing of it remains'
        where r.status = 'running'
            and not exists (
                select from pg_stat_activity as a
                where a.pid = r.backend_pid and coalesce(a.backend_start <= r.started_at, true)
            )
        returning r.id
    )
    select count(*) from dead
$$;
comment on function dw_close_dead_runs() is 'Closes the runs whose session is gone; returns how many.';

-- Control tables: the jobs, the instances, the ledger of runs and what belongs to a run.
-- dw_etl_jobs, dw_etl_runs and dw_api_credentials exist already in the deployments this replaces: they are made when
-- absent, and gain nullable columns otherwise, so that no reader of theirs breaks.

-- What older databases lack or do differently, before anything below relies on it.
do $$
declare
    control record;
    key_column text;
    fault bigint;
    item record;
begin
    for control in
        select c.oid as relid, c.relname as name
        from pg_class as c
        where c.relnamespace = 'public'::regnamespace
            and c.relname in ('dw_api_credentials', 'dw_etl_jobs', 'dw_etl_runs')
            and c.relkind = 'r'
    loop
        key_column := 'id';
        if not exists (select from pg_attribute as a where a.attrelid = control.relid and a.attname = 'id') then
            if not exists (select from pg_attribute as a where a.attrelid = control.relid and a.attname = 'run_id') then
                raise exception 'table % has no column id', control.name
                    using hint = 'Rename its key column to id and migrate again.';
            end if;
            -- Readers of run_id keep it, and everybody else finds the same number under id.
            key_column := 'run_id';
            execute format('alter table %I add column id integer generated always as (run_id) stored', control.name);
            execute format('create unique index %I on %I (id)', control.name || '_id', control.name);
        end if;

        if not exists (select from pg_constraint as k where k.conrelid = control.relid and k.contype = 'p') then
            execute format('select count(*) - count(distinct %I) from %I', key_column, control.name) into fault;
            if fault > 0 then
                raise exception 'column %.% holds % repeated or empty keys', control.name, key_column, fault
                    using hint = 'Make them unique and migrate again.';
            end if;
            execute format('alter table %I add primary key (%I)', control.name, key_column);
        end if;

        if exists (
            select from pg_attribute as a
            where a.attrelid = control.relid and a.attname = key_column and not a.atthasdef and a.attidentity = ''
        ) then
            execute format(
                'create sequence %1$I owned by %2$I.%3$I',
                control.name || '_' || key_column || '_numbers', control.name, key_column
            );
            execute format(
                'alter table %1$I alter column %2$I set default nextval(%3$L)',
                control.name, key_column, control.name || '_' || key_column || '_numbers'
            );
            execute format(
                'select setval(%L, coalesce((select max(%I) from %I), 0) + 1, false)',
                control.name || '_' || key_column || '_numbers', key_column, control.name
            );
        end if;

        -- Columns that only the old loader filled must not refuse the rows of this one.
        for item in
            select a.attname as name
            from pg_attribute as a
            where a.attrelid = control.relid and a.attnum > 0 and not a.attisdropped and a.attnotnull and not a.atthasdef
                and a.attidentity = '' and a.attname not in ('id', key_column, 'run_status')
                and not exists (
                    select from pg_constraint as k
                    where k.conrelid = a.attrelid and k.contype = 'p' and a.attnum = any(k.conkey)
                )
        loop
            execute format('alter table %I alter column %I drop not null', control.name, item.name);
        end loop;

        -- A list of allowed states made for the old loader would refuse this one's.
        for item in
            select k.conname as name
            from pg_constraint as k
            inner join pg_attribute as a on a.attrelid = k.conrelid and a.attnum = any(k.conkey)
            where k.conrelid = control.relid and k.contype = 'c' and a.attname in ('run_status', 'last_run_status')
        loop
            execute format('alter table %I drop constraint %I', control.name, item.name);
        end loop;

        -- A short varchar would refuse a long message; a view over the column keeps it as it is.
        if control.name = 'dw_etl_runs' then
            begin
                alter table dw_etl_runs alter column error_message type text;
            exception
                when feature_not_supported or undefined_column then null;
            end;
        end if;
    end loop;
end
$$;

create table if not exists dw_api_credentials (
    id serial primary key,
    instance_name varchar(255),
    base_url varchar(500),
    api_key varchar(255),
    is_active boolean default true
);
alter table dw_api_credentials add column if not exists instance_name varchar(255);
alter table dw_api_credentials add column if not exists base_url varchar(500);
alter table dw_api_credentials add column if not exists api_key varchar(255);
alter table dw_api_credentials add column if not exists is_active boolean default true;
alter table dw_api_credentials add column if not exists api_key_header varchar(255);
alter table dw_api_credentials add column if not exists created_at timestamp default now();
comment on table dw_api_credentials is 'Instances of Clinical Conductor, a row each; prefer a reference such as env:CC_KEY_WEST to a key.';

create table if not exists dw_etl_jobs (
    id serial primary key,
    name varchar(255),
    source_endpoint varchar(500),
    target_table varchar(255),
    is_active boolean default true,
    requires_parameters boolean default false,
    parameter_source_table varchar(255),
    parameter_source_column varchar(255),
    source_instance_id integer,
    last_run_at timestamp,
    last_run_status varchar(50),
    last_run_records integer,
    created_at timestamp default now(),
    updated_at timestamp default now()
);
alter table dw_etl_jobs add column if not exists name varchar(255);
alter table dw_etl_jobs add column if not exists source_endpoint varchar(500);
alter table dw_etl_jobs add column if not exists target_table varchar(255);
alter table dw_etl_jobs add column if not exists is_active boolean default true;
alter table dw_etl_jobs add column if not exists requires_parameters boolean default false;
alter table dw_etl_jobs add column if not exists parameter_source_table varchar(255);
alter table dw_etl_jobs add column if not exists parameter_source_column varchar(255);
alter table dw_etl_jobs add column if not exists source_instance_id integer;
alter table dw_etl_jobs add column if not exists last_run_at timestamp;
alter table dw_etl_jobs add column if not exists last_run_status varchar(50);
alter table dw_etl_jobs add column if not exists last_run_records integer;
alter table dw_etl_jobs add column if not exists created_at timestamp default now();
alter table dw_etl_jobs add column if not exists updated_at timestamp default now();
alter table dw_etl_jobs add column if not exists resource varchar(255);
alter table dw_etl_jobs add column if not exists category varchar(50);
alter table dw_etl_jobs add column if not exists inactive_reason text;
alter table dw_etl_jobs add column if not exists schedule_cron varchar(255);
alter table dw_etl_jobs add column if not exists priority integer;
alter table dw_etl_jobs add column if not exists timeout_seconds integer;
comment on table dw_etl_jobs is 'One row per job. Seeded from the catalog; afterwards the row wins (is_active, source_endpoint, schedule_cron, priority, timeout_seconds).';

create table if not exists dw_etl_runs (
    id serial primary key,
    job_id integer references dw_etl_jobs,
    run_status varchar(50) not null,
    records_loaded integer default 0,
    error_message text,
    started_at timestamp default now(),
    completed_at timestamp,
    duration_seconds integer
);
alter table dw_etl_runs add column if not exists job_id integer;
alter table dw_etl_runs add column if not exists run_status varchar(50);
alter table dw_etl_runs add column if not exists records_loaded integer default 0;
alter table dw_etl_runs add column if not exists error_message text;
alter table dw_etl_runs add column if not exists started_at timestamp default now();
alter table dw_etl_runs add column if not exists completed_at timestamp;
alter table dw_etl_runs add column if not exists duration_seconds integer;
alter table dw_etl_runs add column if not exists source_instance_id integer;
alter table dw_etl_runs add column if not exists batch_id uuid;
alter table dw_etl_runs add column if not exists retry_of_run_id integer;
alter table dw_etl_runs add column if not exists full_refresh boolean default false;
alter table dw_etl_runs add column if not exists error_type varchar(100);
alter table dw_etl_runs add column if not exists error_category varchar(50);
alter table dw_etl_runs add column if not exists records_read bigint default 0;
alter table dw_etl_runs add column if not exists records_inserted bigint default 0;
alter table dw_etl_runs add column if not exists records_updated bigint default 0;
alter table dw_etl_runs add column if not exists records_unchanged bigint default 0;
alter table dw_etl_runs add column if not exists records_rejected bigint default 0;
alter table dw_etl_runs add column if not exists records_deleted bigint default 0;
alter table dw_etl_runs add column if not exists records_duplicate bigint default 0;
alter table dw_etl_runs add column if not exists requests bigint default 0;
alter table dw_etl_runs add column if not exists retries bigint default 0;
alter table dw_etl_runs add column if not exists throttled bigint default 0;
alter table dw_etl_runs add column if not exists limiter_wait_seconds double precision default 0;
alter table dw_etl_runs add column if not exists request_seconds double precision default 0;
alter table dw_etl_runs add column if not exists latency_histogram jsonb;
alter table dw_etl_runs add column if not exists stages jsonb;
alter table dw_etl_runs add column if not exists parents_total bigint;
alter table dw_etl_runs add column if not exists parents_fetched bigint;
alter table dw_etl_runs add column if not exists parents_failed bigint default 0;
alter table dw_etl_runs add column if not exists parents_owed bigint;
alter table dw_etl_runs add column if not exists upstream_count bigint;
alter table dw_etl_runs add column if not exists staged_count bigint;
alter table dw_etl_runs add column if not exists planned_requests bigint;
alter table dw_etl_runs add column if not exists warning text;
alter table dw_etl_runs add column if not exists host varchar(255);
alter table dw_etl_runs add column if not exists process_id integer;
alter table dw_etl_runs add column if not exists heartbeat_at timestamptz;
create index if not exists dw_etl_runs_job_started on dw_etl_runs (job_id, started_at desc);
create index if not exists dw_etl_runs_running on dw_etl_runs (job_id) where run_status = 'running';
comment on table dw_etl_runs is 'The ledger: one row per run of a job and instance. run_status: running, success, failed or skipped.';
comment on column dw_etl_runs.records_loaded is 'records_inserted + records_updated + records_unchanged, counted by the statements themselves.';
comment on column dw_etl_runs.batch_id is 'The runs that one command started share it.';
comment on column dw_etl_runs.stages is 'Seconds per stage of the run: read, ask, land, merge.';
comment on column dw_etl_runs.latency_histogram is 'Requests per upper bound of latency in seconds, cumulative, as Prometheus counts them.';

create table if not exists dw_etl_rejected_records (
    id bigserial primary key,
    source_instance_id integer not null,
    etl_job_id integer not null,
    etl_run_id integer not null,
    target_table text not null,
    parent_source_id text not null default '',
    source_id text,
    reason text not null,
    raw text,
    content_hash bytea not null,
    first_seen_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),
    times_seen integer not null default 1
);
create unique index if not exists dw_etl_rejected_records_once
on dw_etl_rejected_records (source_instance_id, target_table, parent_source_id, content_hash);
comment on table dw_etl_rejected_records is 'Quarantine: records served that could not be staged, with the reason. The same record again only moves last_seen_at, etl_run_id and times_seen.';
comment on column dw_etl_rejected_records.raw is 'The record as it was served; bytes that are not UTF-8 are written as backslash escapes.';

create table if not exists dw_etl_deleted_records (
    id bigserial primary key,
    source_instance_id integer,
    etl_job_id integer,
    etl_run_id integer,
    target_table text not null,
    parent_source_id text not null default '',
    source_id text,
    data jsonb not null,
    reason text not null,
    loaded_at timestamp,
    deleted_at timestamptz not null default now()
);
create index if not exists dw_etl_deleted_records_key on dw_etl_deleted_records (target_table, source_id);
comment on table dw_etl_deleted_records is 'Archive of rows that left staging: gone upstream, gone with their parent, or superseded when an old database was upgraded.';

create table if not exists dw_etl_parents (
    job_id integer not null,
    source_instance_id integer not null,
    parent_key text not null,
    parent_hash bytea,
    status text not null check (status in ('fetched', 'failed', 'gone')),
    records integer not null default 0,
    failures integer not null default 0,
    reason text,
    etl_run_id integer not null,
    fetched_at timestamptz not null,
    primary key (source_instance_id, job_id, parent_key)
);
comment on table dw_etl_parents is 'The parent ledger of every fan-out: which parent was asked, when, and what it looked like before it was asked. A parent that is not here, changed since, failed or stale is owed.';
comment on column dw_etl_parents.parent_key is 'The values of the path''s parameters, joined by /; the children''s parent_source_id.';
comment on column dw_etl_parents.parent_hash is 'content_hash of the parent''s row, read before its children were asked for.';

create table if not exists dw_etl_watermarks (
    job_id integer not null,
    source_instance_id integer not null,
    cursor_field text not null,
    watermark timestamptz not null,
    full_read_at timestamptz,
    etl_run_id integer not null,
    updated_at timestamptz not null default now(),
    primary key (source_instance_id, job_id)
);
comment on table dw_etl_watermarks is 'How far an incremental listing has come, in the source''s own clock; moved in the transaction that commits its last rows.';

create table if not exists dw_etl_capabilities (
    job_id integer not null,
    source_instance_id integer not null,
    path text,
    details jsonb not null default '{}'::jsonb,
    updated_at timestamptz not null default now(),
    primary key (source_instance_id, job_id)
);
comment on table dw_etl_capabilities is 'What an instance was found to support for an endpoint: the path that answers, ordering, filtering, counting, the cursor.';

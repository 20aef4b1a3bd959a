-- Who ran what, when, and which migration changed what. Rows are only ever added: by triggers, which run as the owner.

create table dw_audit_log (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null default session_user,
    application text default current_setting('application_name', true),
    action text not null,
    object text not null,
    details jsonb not null default '{}'
);
create index dw_audit_log_object on dw_audit_log (object, at desc);
select dw_describe('dw_audit_log', 'Append-only: runs of jobs and procedures, changes of the jobs, migrations.', '{
    "id": "Number of the entry", "at": "When", "actor": "Database role that did it", "application": "Program it used (application_name)",
    "action": "run, transform, migrate, change job, add job or remove job", "object": "Job, procedure or migration", "details": "What else is known; never a record''s content"}');

create function dw_refuse_audit_change() returns trigger
language plpgsql as $$
begin
    if current_user <> (select pg_get_userbyid(relowner) from pg_class where oid = tg_relid) then
        raise insufficient_privilege using message = format('%s of dw_audit_log is refused: it is append-only', lower(tg_op));
    end if;
    return null;
end $$;
comment on function dw_refuse_audit_change() is 'Refuses UPDATE, DELETE and TRUNCATE of the audit log to everyone but its owner, whatever was granted.';
create trigger dw_audit_log_append_only before update or delete or truncate on dw_audit_log
for each statement execute function dw_refuse_audit_change();

create function dw_audit() returns trigger
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    job dw_etl_jobs;
    before jsonb;
    changes jsonb;
begin
    if tg_table_name = 'dw_etl_runs' then
        select * into job from dw_etl_jobs as j where j.id = new.job_id;
        insert into dw_audit_log (action, object, details)
        values ('run', coalesce(job.resource, job.name, 'job ' || new.job_id), jsonb_build_object('job_id', new.job_id, 'run', to_jsonb(new) -> 'id'));
    elsif tg_table_name = 'dw_transformation_runs' then
        insert into dw_audit_log (action, object, details)
        values ('transform', new.procedure_name, jsonb_build_object('run', new.id, 'full_refresh', new.full_refresh));
    elsif tg_table_name = 'dw_schema_migrations' then
        insert into dw_audit_log (action, object, details) values ('migrate', new.name, jsonb_build_object('content_hash', new.content_hash));
    elsif tg_op = 'UPDATE' then
        before := to_jsonb(old);
        select jsonb_object_agg(n.key, jsonb_build_array(before -> n.key, n.value)) into changes
        from jsonb_each(to_jsonb(new)) as n
        where n.value is distinct from before -> n.key
            and n.key not in ('last_run_at', 'last_run_status', 'last_run_records', 'updated_at');
        if changes is not null then
            insert into dw_audit_log (action, object, details)
            values ('change job', coalesce(new.resource, new.name, 'job ' || new.id), changes);
        end if;
    else
        insert into dw_audit_log (action, object)
        select case tg_op when 'INSERT' then 'add job' else 'remove job' end, coalesce(j.resource, j.name, 'job ' || j.id)
        from (select (coalesce(new, old)).*) as j;
    end if;
    return null;
end $$;
comment on function dw_audit() is 'Writes the audit log.';
create trigger dw_audit after insert on dw_etl_runs for each row execute function dw_audit();
create trigger dw_audit after insert on dw_transformation_runs for each row execute function dw_audit();
create trigger dw_audit after insert or update on dw_schema_migrations for each row execute function dw_audit();
create trigger dw_audit after insert or update or delete on dw_etl_jobs for each row execute function dw_audit();

insert into dw_audit_log (at, action, object, details)
select
    m.applied_at,
    'migrate' as action,
    m.name,
    jsonb_build_object('content_hash', m.content_hash) as details
from dw_schema_migrations as m
order by m.applied_at, m.name;

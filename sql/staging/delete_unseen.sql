-- Rows that a proven-complete enumeration did not contain leave staging, archived first.
-- pg_temp.dw_seen(id) holds the staged rows that this run was served; rows it inserted or updated itself carry its run id.
-- With p_parents, only rows under the parents in pg_temp.dw_enumerated(parent_source_id) are looked at.
create or replace function dw_delete_unseen(
    p_run integer,
    p_job integer,
    p_instance integer,
    p_table text,
    p_parents boolean,
    p_most bigint,
    p_reason text,
    out unseen bigint,
    out deleted bigint
)
language plpgsql
-- The session that stages looks rows up by index only; here a whole table is compared.
set enable_hashjoin = on
set enable_seqscan = on
as $$
begin
    drop table if exists pg_temp.dw_unseen;
    execute format(
        'create temporary table dw_unseen on commit drop as
        select s.id
        from %I as s
        where s.source_instance_id = $1
            and s.etl_run_id is distinct from $2
            and not exists (select from pg_temp.dw_seen as d where d.id = s.id)
            %s', p_table,
        case when p_parents
            then 'and s.parent_source_id in (select e.parent_source_id from pg_temp.dw_enumerated as e)'
            else ''
        end
    ) using p_instance, p_run;
    get diagnostics unseen = row_count;
    deleted := 0;
    if unseen = 0 or unseen > p_most then
        return;
    end if;
    execute format(
        'with gone as (
            delete from %I as s using dw_unseen as u where s.id = u.id
            returning s.source_instance_id, s.parent_source_id, s.source_id, s.data, s.loaded_at
        )
        insert into dw_etl_deleted_records (
            source_instance_id, etl_job_id, etl_run_id, target_table, parent_source_id, source_id, data, reason, loaded_at
        )
        select source_instance_id, $1, $2, $3, parent_source_id, source_id, data, $4, loaded_at from gone', p_table
    ) using p_job, p_run, p_table, p_reason;
    get diagnostics deleted = row_count;
end
$$;
comment on function dw_delete_unseen(integer, integer, integer, text, boolean, bigint, text) is
'Archives and deletes the staged rows that a complete enumeration did not contain; deletes nothing when there are more than p_most.';

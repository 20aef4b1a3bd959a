-- What landed becomes staged rows: insert what is absent, update what differs, leave the rest untouched.
-- p_repeats says that a key may have landed more than once; the last one (greatest seq) wins.
create or replace function dw_merge_landing(
    p_run integer,
    p_job integer,
    p_instance integer,
    p_table text,
    p_landing text,
    p_repeats boolean,
    out inserted bigint,
    out updated bigint,
    out unchanged bigint,
    out repeated bigint
)
language plpgsql
-- Staged rows are looked up by their key, landing rows read in order: the cost is that of the rows that landed, however
-- large the table is and whatever its statistics say.
set enable_seqscan = on
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
    landed bigint;
begin
    if p_repeats then
        execute format(
            'delete from %1$s as l
            using (
                select ctid, row_number() over (partition by parent_source_id, source_id order by seq desc) as place
                from %1$s
            ) as d
            where l.ctid = d.ctid and d.place > 1', p_landing
        );
    end if;
    execute format('select count(*) from %s', p_landing) into landed;

    -- A record seen twice in one run keeps what it was counted as the first time.
    execute format(
        'with changed as (
            update %1$I as s
            set data = l.data,
                content_hash = l.content_hash,
                etl_job_id = $1,
                etl_run_id = $2,
                loaded_at = now(),
                updated_at = now(),
                changed_xid = pg_current_xact_id()
            from %2$s as l
            inner join %1$I as o
                on o.source_instance_id = $3
                and o.parent_source_id = l.parent_source_id
                and o.source_id = l.source_id
            where s.id = o.id and o.data is distinct from l.data
            returning o.etl_run_id is not distinct from $2 as again
        )
        select count(*) filter (where not again), count(*) filter (where again) from changed', p_table, p_landing
    ) into updated, repeated using p_job, p_run, p_instance;

    -- The same JSON written differently (order of keys, blanks) is the same record: only its hash moves.
    execute format(
        'update %1$I as s
        set content_hash = l.content_hash
        from %2$s as l
        where s.source_instance_id = $1
            and s.parent_source_id = l.parent_source_id
            and s.source_id = l.source_id
            and s.content_hash is distinct from l.content_hash', p_table, p_landing
    ) using p_instance;

    execute format(
        'insert into %1$I (
            data, source_id, parent_source_id, source_instance_id, content_hash, etl_job_id, etl_run_id,
            loaded_at, created_at, updated_at
        )
        select l.data, l.source_id, l.parent_source_id, $3, l.content_hash, $1, $2, now(), now(), now()
        from %2$s as l
        where not exists (
            select from %1$I as s
            where s.source_instance_id = $3
                and s.parent_source_id = l.parent_source_id
                and s.source_id = l.source_id
        )', p_table, p_landing
    ) using p_job, p_run, p_instance;
    get diagnostics inserted = row_count;

    unchanged := landed - inserted - updated - repeated;
    execute format('truncate %s', p_landing);
end
$$;
comment on function dw_merge_landing(integer, integer, integer, text, text, boolean) is
'Merges a landing table into its staging table and empties it; returns how many rows were inserted, updated, unchanged, or written again in the same run.';

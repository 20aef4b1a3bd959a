-- What status, history and dashboard ask, answered from an index however long the ledger is. (benchmarks/queries.py)
-- The newest runs of a job, in the order in which they are shown, and whose instance they are of.
drop index if exists dw_etl_runs_job_started;
create index if not exists dw_etl_runs_job_latest
on dw_etl_runs (job_id, started_at desc, id desc) include (source_instance_id);
-- The newest runs of all.
create index if not exists dw_etl_runs_latest on dw_etl_runs (started_at desc, id desc);
-- When a job last succeeded.
create index if not exists dw_etl_runs_succeeded
on dw_etl_runs (job_id, source_instance_id, completed_at) where run_status = 'success';
-- The few parents that could not be asked, among hundreds of thousands that could.
create index if not exists dw_etl_parents_not_fetched
on dw_etl_parents (job_id, source_instance_id, status) where status <> 'fetched';
-- Why a run, or a job, put records into quarantine.
create index if not exists dw_etl_rejected_records_run on dw_etl_rejected_records (etl_run_id, reason);
create index if not exists dw_etl_rejected_records_job on dw_etl_rejected_records (etl_job_id, source_instance_id);

-- A time in which the ledger could not be used is told from outside of it, and its end is noted here.

alter table dw_alerts drop constraint dw_alerts_kind_check;
alter table dw_alerts add constraint dw_alerts_kind_check
check (kind in ('failed', 'mass_delete', 'stuck', 'overdue', 'quality', 'transformation', 'database'));
comment on column dw_alerts.kind is 'failed, mass_delete, stuck, overdue, quality (a data quality check), transformation (a procedure of the warehouse) or database (the ledger itself could not be used).';

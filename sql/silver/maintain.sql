-- Refreshing a materialized view, and analyzing a table, takes its owner: this does it for whoever may run the procedures.
create or replace function dw_maintain(target text) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    target_kind text := (select t.kind from dw_transformations as t where t.target_table = target);
begin
    if target_kind is null then
        raise exception '% is not on the list dw_transformations', target;
    elsif target_kind = 'view' then
        execute format('refresh materialized view concurrently %I', target);
    else
        execute format('analyze %I', target);
    end if;
end $$;
comment on function dw_maintain(text) is 'Refreshes or analyzes a target of the list, as its owner.';
revoke execute on function dw_maintain(text) from public;

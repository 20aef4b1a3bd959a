-- The instance that is meant when none is named: the row called default, else the oldest active one that is not the
-- demo's, else a new row called default.
create or replace function dw_default_instance() returns integer
language plpgsql
as $$
declare
    found_id integer;
begin
    for attempt in 1..2 loop
        select c.id
        into found_id
        from dw_api_credentials as c
        where c.instance_name = 'default' or (c.is_active is not false and c.instance_name is distinct from 'demo')
        order by c.instance_name is not distinct from 'default' desc, c.id
        limit 1;
        exit when found_id is not null;
        -- Two first starters make one row: the second one waits here and looks again.
        lock table dw_api_credentials in share row exclusive mode;
        if attempt = 2 then
            insert into dw_api_credentials (instance_name, base_url, api_key, is_active)
            values ('default', '', 'env:CC_API_KEY', true)
            returning id into found_id;
        end if;
    end loop;
    return found_id;
end
$$;
comment on function dw_default_instance() is 'Number of the instance that is meant when none is named; makes it if there is none.';

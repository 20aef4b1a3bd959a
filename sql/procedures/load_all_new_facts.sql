-- Every fact; the dimensions come first, by load_all_new_dimensions.
create or replace procedure load_all_new_facts(full_refresh boolean default false)
language plpgsql as $$
begin
    call dw_load_all('{fact}', full_refresh);
end $$;
comment on procedure load_all_new_facts (boolean) is 'Loads every fact.';

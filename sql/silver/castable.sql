-- Whether a text can be read as a type. PostgreSQL 16 can say so; before, only trying tells. Good data is never asked:
-- dw_collect_batch casts first and looks for the culprits only when that failed.
do $block$
begin
    if current_setting('server_version_num')::integer >= 160000 then
        create or replace function dw_castable(value text, type text) returns boolean
        language sql stable parallel safe as $$ select pg_input_is_valid(value, type) $$;
    else
        create or replace function dw_castable(value text, type text) returns boolean
        language plpgsql stable as $$
        begin
            execute format('select %L::%s', value, type);
            return true;
        exception when data_exception then
            return false;
        end $$;
    end if;
end $block$;
comment on function dw_castable(text, text) is 'Whether the text can be read as the type.';

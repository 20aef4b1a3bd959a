-- Why PostgreSQL cannot hold a JSON text: an SQLSTATE, or null when it can. Slow, so only asked when a landing failed.
create or replace function dw_json_refusal(p_text text) returns text
language plpgsql
immutable
as $$
begin
    perform p_text::jsonb;
    return null;
exception
    when others then
        return sqlstate;
end
$$;
comment on function dw_json_refusal(text) is 'The SQLSTATE with which PostgreSQL refuses a text as jsonb; null when it takes it.';

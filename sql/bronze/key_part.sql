-- One part of a key, as it stands in a key of several parts joined by /: catalog.join_key says the same in Python.
create or replace function dw_key_part(p_part text) returns text
language sql
immutable
parallel safe
as $$
    select replace(replace(p_part, '%', '%25'), '/', '%2F')
$$;
comment on function dw_key_part(text) is 'One part of a key of several: % and / inside it are percent-encoded.';

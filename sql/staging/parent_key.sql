-- The key under which a parent's children are asked for: the last p_parts key parts of the parent's row, joined by /.
create or replace function dw_parent_key(p_parent_source_id text, p_source_id text, p_parts integer) returns text
language sql
immutable
parallel safe
as $$
    select case
        when p_parts = 1 then dw_key_part(p_source_id)
        else array_to_string(
            (string_to_array(p_parent_source_id, '/'))[
                greatest(1, cardinality(string_to_array(p_parent_source_id, '/')) - p_parts + 2):
            ], '/'
        ) || '/' || dw_key_part(p_source_id)
    end
$$;
comment on function dw_parent_key(text, text, integer) is
'The parent_source_id that the children of a staged row carry, when their path has p_parts parameters.';

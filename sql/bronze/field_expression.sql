-- The text of a scalar field of the column t.data, as an SQL expression. The field may be nested (study.id), and every
-- part of it may be spelled with its first letter in the other case: the API writes id and Id, and is read the same way.
create or replace function dw_field_expression(p_field text) returns text
language plpgsql
immutable
as $$
declare
    parts constant text[] := string_to_array(p_field, '.');
    base text := 't.data';
    part text;
    spelled text;
    choices text[];
begin
    foreach part in array parts loop
        choices := '{}';
        foreach spelled in array array[
            part,
            case
                when left(part, 1) = lower(left(part, 1)) then upper(left(part, 1))
                else lower(left(part, 1))
            end || substr(part, 2),
            case when lower(part) = 'id' then 'ID' end
        ] loop
            continue when spelled is null;
            choices := choices || format('nullif(%s -> %L, ''null'')', base, spelled);
        end loop;
        base := format('coalesce(%s)', array_to_string(choices, ', '));
    end loop;
    return format('case when jsonb_typeof(%1$s) in (''string'', ''number'') then nullif(%1$s #>> ''{}'', '''') end', base);
end
$$;
comment on function dw_field_expression(text) is 'SQL expression for the text of a field of t.data, by its dotted name.';

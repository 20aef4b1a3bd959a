-- Keys, versions and what facts point at.
select dw_check('duplicate_business_keys', 'error',
    'A record has two open versions, or two rows. The unique indexes forbid it: look for a missing one.',
    $$select dw_count_over_targets('{scd2,type1,fact}',
        'select count(*) from (select from {table} where {live} group by {keys} having count(*) > 1) as q')$$);
select dw_check('overlapping_versions', 'error',
    'Two versions of a record hold at the same time.',
    $$select dw_count_over_targets('{scd2}',
        'select count(*) from (select valid_to > lead(valid_from) over (partition by {keys} order by valid_from) as bad from {table}) as q where bad')$$);
select dw_check('missing_unknown_member', 'error',
    'A dimension lacks its unknown member (-1), so facts that point at it are lost in joins.',
    $$select dw_count_over_targets('{scd2,type1}', 'select (not exists (select from {table} where {surrogate} = -1))::integer')$$);
select dw_check('orphans', 'error',
    'A fact points at a dimension row that does not exist.',
    $$select dw_count_over_references(
        'select count(*) from {fact} as f where not exists (select from {dimension} as d where d.{dimension_key} = f.{key})', '{type0,type1,scd2}')$$);
select dw_check('late_dimensions', 'warning',
    'A fact names a record that the dimension does not have (yet), so it points at the unknown member. Load the dimension''s job.',
    $$select dw_count_over_references('select count(*) from {fact} as f where f.{key} = -1 and f.{id} is not null', '{type1,scd2}')$$);
select dw_check('wrong_version', 'error',
    'A fact points at a version that did not hold when it happened.',
    $$select dw_count_over_references(
        'select count(*) from {fact} as f inner join {dimension} as d on d.{dimension_key} = f.{key} and f.{key} > 0
            where coalesce(f.event_time, ''infinity'') < d.valid_from
                or (coalesce(f.event_time, ''infinity'') >= d.valid_to and not d.is_current)', '{scd2}')$$);
select dw_check('dates_outside_date_dimension', 'warning',
    'A date lies outside of 1990 to 2060 and points at the unknown day: a typing error upstream, or .NET''s empty date.',
    $$select dw_count_over_references('select count(*) from {fact} as f where f.{key} = -1 and f.{id} is not null', '{type0}')$$);

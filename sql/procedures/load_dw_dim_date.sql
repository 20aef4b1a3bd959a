-- Days: Type 0, computed once. Holidays and the fiscal year (from 1 October) are those of the US federal government.
create or replace view stg_dim_date as
with days as (
    select
        g.day::date as full_date,
        extract(year from g.day)::integer as year,
        extract(month from g.day)::integer as month,
        extract(day from g.day)::integer as day,
        extract(isodow from g.day)::integer as day_of_week
    from generate_series(timestamp '1990-01-01', timestamp '2060-12-31', interval '1 day') as g (day)
),

named as (
    select
        d.*,
        -- A fixed holiday on a Saturday is observed on Friday, on a Sunday on Monday.
        case
            when d.month = 1 and d.day = 1 then 'New Year''s Day'
            when d.month = 6 and d.day = 19 and d.year >= 2021 then 'Juneteenth'
            when d.month = 7 and d.day = 4 then 'Independence Day'
            when d.month = 11 and d.day = 11 then 'Veterans Day'
            when d.month = 12 and d.day = 25 then 'Christmas Day'
        end as fixed_name,
        case
            when d.day_of_week = 1 and d.month = 1 and d.day between 15 and 21 then 'Martin Luther King Jr. Day'
            when d.day_of_week = 1 and d.month = 2 and d.day between 15 and 21 then 'Presidents'' Day'
            when d.day_of_week = 1 and d.month = 5 and d.day >= 25 then 'Memorial Day'
            when d.day_of_week = 1 and d.month = 9 and d.day <= 7 then 'Labor Day'
            when d.day_of_week = 1 and d.month = 10 and d.day between 8 and 14 then 'Columbus Day'
            when d.day_of_week = 4 and d.month = 11 and d.day between 22 and 28 then 'Thanksgiving Day'
        end as floating_name
    from days as d
),

observed as (
    select
        n.*,
        coalesce(
            n.floating_name,
            n.fixed_name,
            case when n.day_of_week = 5 then lead(n.fixed_name) over w || ' (observed)' end,
            case when n.day_of_week = 1 then lag(n.fixed_name) over w || ' (observed)' end
        ) as holiday_name
    from named as n
    window w as (order by n.full_date)
)

select
    o.year * 10000 + o.month * 100 + o.day as date_key,
    o.full_date,
    o.year,
    extract(quarter from o.full_date)::integer as quarter,
    o.month,
    to_char(o.full_date, 'FMMonth') as month_name,
    extract(week from o.full_date)::integer as week,
    o.day,
    o.day_of_week,
    to_char(o.full_date, 'FMDay') as day_name,
    extract(doy from o.full_date)::integer as day_of_year,
    o.day_of_week >= 6 as is_weekend,
    o.year + (o.month >= 10)::integer as fiscal_year,
    extract(quarter from o.full_date + interval '3 months')::integer as fiscal_quarter,
    o.holiday_name is not null as is_holiday,
    o.holiday_name
from observed as o
union all
select
    -1 as date_key,
    null as full_date,
    null as year,
    null as quarter,
    null as month,
    null as month_name,
    null as week,
    null as day,
    null as day_of_week,
    null as day_name,
    null as day_of_year,
    null as is_weekend,
    null as fiscal_year,
    null as fiscal_quarter,
    null as is_holiday,
    null as holiday_name;
comment on view stg_dim_date is 'The days that dw_dim_date holds, and the unknown one.';

create or replace procedure load_dw_dim_date(full_refresh boolean default false, inout run_id bigint default null)
language plpgsql as $$
declare
    inserted bigint := 0;
    updated bigint := 0;
begin
    perform pg_advisory_xact_lock(hashtextextended('trialsync warehouse dw_dim_date', 0));
    run_id := dw_start_run('load_dw_dim_date', full_refresh, run_id);
    -- The days never change, so there is nothing to look at once they are there.
    if full_refresh or (select count(*) from (select from dw_dim_date limit 2) as d) < 2 then
        update dw_dim_date as o
        set (full_date, year, quarter, month, month_name, week, day, day_of_week, day_name, day_of_year, is_weekend,
                fiscal_year, fiscal_quarter, is_holiday, holiday_name)
            = (n.full_date, n.year, n.quarter, n.month, n.month_name, n.week, n.day, n.day_of_week, n.day_name, n.day_of_year,
                n.is_weekend, n.fiscal_year, n.fiscal_quarter, n.is_holiday, n.holiday_name)
        from stg_dim_date as n
        where o.date_key = n.date_key and o.* is distinct from row(n.*);
        get diagnostics updated = row_count;
        insert into dw_dim_date select n.* from stg_dim_date as n on conflict (date_key) do nothing;
        get diagnostics inserted = row_count;
        perform dw_maintain('dw_dim_date');
    end if;
    perform dw_finish_run(run_id, inserted => inserted, updated => updated);
end $$;
comment on procedure load_dw_dim_date (boolean, bigint) is 'Loads dw_dim_date.';

select dw_register('load_dw_dim_date', 'type0', 1);

-- Filled with the schema, so that no fact ever waits for its day.
call load_dw_dim_date();

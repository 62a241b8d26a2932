-- The grain of each question table, as its description states it.
with

keys as (

    select
        'punctuality_by_airline_month' as mart,
        concat(airline_code, '|', cast(month_start as string)) as grain
    from {{ ref('punctuality_by_airline_month') }}
    union all
    select
        'performance_by_route' as mart,
        concat(origin_airport_key, '|', destination_code) as grain
    from {{ ref('performance_by_route') }}
    union all
    select
        'delay_by_weather' as mart,
        concat(origin_airport_key, '|', weather_condition) as grain
    from {{ ref('delay_by_weather') }}

)

select
    mart,
    grain,
    count(*) as row_count
from keys
group by mart, grain
having count(*) > 1

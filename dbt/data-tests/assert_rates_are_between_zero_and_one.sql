-- A rate outside [0, 1] counts some flights twice, or not at all.
with

rates as (

    select cancellation_rate as rate
    from {{ ref('punctuality_by_airline_month') }}
    union all
    select on_time_rate as rate
    from {{ ref('punctuality_by_airline_month') }}
    union all
    select cancellation_rate as rate
    from {{ ref('delay_by_weather') }}

)

select rate
from rates
where rate < 0 or rate > 1

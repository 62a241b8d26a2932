-- Each mart adds up to the fact table, outcome by outcome.
with

counts as (

    select
        'punctuality_by_airline_month' as mart,
        sum(flight_count) as flight_count,
        sum(cancelled_count) as cancelled_count,
        sum(diverted_count) as diverted_count,
        sum(delayed_count) as delayed_count,
        sum(on_time_count) as on_time_count
    from {{ ref('punctuality_by_airline_month') }}
    union all
    select
        'performance_by_route' as mart,
        sum(flight_count) as flight_count,
        sum(cancelled_count) as cancelled_count,
        sum(diverted_count) as diverted_count,
        sum(delayed_count) as delayed_count,
        sum(on_time_count) as on_time_count
    from {{ ref('performance_by_route') }}
    union all
    select
        'delay_by_weather' as mart,
        sum(flight_count) as flight_count,
        sum(cancelled_count) as cancelled_count,
        sum(diverted_count) as diverted_count,
        sum(delayed_count) as delayed_count,
        sum(on_time_count) as on_time_count
    from {{ ref('delay_by_weather') }}

),

expected as (

    select
        count(*) as flight_count,
        countif(is_cancelled) as cancelled_count,
        countif(is_diverted) as diverted_count,
        countif(is_delayed) as delayed_count,
        countif(is_on_time) as on_time_count
    from {{ ref('fct_flights') }}

)

select counts.*
from counts
cross join expected
where
    counts.flight_count != expected.flight_count
    or counts.cancelled_count != expected.cancelled_count
    or counts.diverted_count != expected.diverted_count
    or counts.delayed_count != expected.delayed_count
    or counts.on_time_count != expected.on_time_count

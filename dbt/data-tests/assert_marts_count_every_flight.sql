-- Every question table counts each flight of the fact table once.
with

counts as (

    select
        'punctuality_by_airline_month' as mart,
        sum(flight_count) as flight_count
    from {{ ref('punctuality_by_airline_month') }}
    union all
    select
        'performance_by_route' as mart,
        sum(flight_count) as flight_count
    from {{ ref('performance_by_route') }}
    union all
    select
        'delay_by_weather' as mart,
        sum(flight_count) as flight_count
    from {{ ref('delay_by_weather') }}

),

expected as (

    select count(*) as flight_count
    from {{ ref('fct_flights') }}

)

select
    counts.mart,
    counts.flight_count,
    expected.flight_count as expected_flight_count
from counts
cross join expected
where counts.flight_count != expected.flight_count

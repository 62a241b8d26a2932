-- No flight of the source is lost or counted twice by the incremental load.
with

fact as (

    select count(*) as flight_count
    from {{ ref('fct_flights') }}

),

staging as (

    select count(*) as flight_count
    from {{ ref('stg_flights') }}

)

select
    fact.flight_count,
    staging.flight_count as expected_flight_count
from fact
cross join staging
where fact.flight_count != staging.flight_count

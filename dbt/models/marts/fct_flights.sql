{{
    config(
        materialized='incremental',
        incremental_strategy='merge',
        unique_key='flight_key',
        on_schema_change='fail',
        partition_by={
            'field': 'flight_date_key',
            'data_type': 'date',
            'granularity': 'day',
        },
        cluster_by=['airline_key', 'origin_airport_key'],
        meta={'rows_keep_their_partition': true},
    )
}}

with

flights as (

    select * from {{ ref('stg_flights') }}

    {% if is_incremental() %}
    -- The partition column of the source; flight_date is the day of this hour.
    where
        scheduled_hour_at >= timestamp(
            {{ first_day_to_read('flight_date_key') }}, 'America/New_York'
        )
    {% endif %}

),

airlines as (

    select * from {{ ref('dim_airlines') }}

),

aircraft as (

    select * from {{ ref('dim_aircraft') }}

),

origins as (

    select * from {{ ref('dim_airports') }}

),

destinations as (

    select * from {{ ref('dim_airports') }}

),

flights_with_dimensions as (

    select
        -- keys
        flights.flight_key,
        flights.flight_date as flight_date_key,
        coalesce(airlines.airline_key, 'unknown') as airline_key,
        coalesce(aircraft.aircraft_key, 'unknown') as aircraft_key,
        coalesce(origins.airport_key, 'unknown') as origin_airport_key,
        coalesce(destinations.airport_key, 'unknown')
            as destination_airport_key,

        -- as received
        flights.airline_code,
        flights.flight_number,
        flights.tail_number,
        flights.origin_code,
        flights.destination_code,

        -- timestamps
        flights.scheduled_hour_at,
        flights.scheduled_departure_at,

        -- numerics
        flights.departure_delay_minutes,
        flights.arrival_delay_minutes,
        flights.air_time_minutes,
        flights.distance_miles,

        -- booleans: each flight has one of these outcomes
        not flights.has_departed as is_cancelled,
        flights.has_departed and not flights.has_arrived as is_diverted,
        coalesce(flights.arrival_delay_minutes >= 15, false) as is_delayed,
        -- As the US DOT counts: cancelled and diverted flights are not on time.
        coalesce(flights.arrival_delay_minutes < 15, false) as is_on_time
    from flights
    left join airlines
        on flights.airline_code = airlines.airline_key
    left join aircraft
        on flights.tail_number = aircraft.aircraft_key
    left join origins
        on flights.origin_code = origins.airport_key
    left join destinations
        on flights.destination_code = destinations.airport_key

)

select * from flights_with_dimensions

{{
    config(
        materialized='incremental',
        incremental_strategy='merge',
        unique_key='flight_key',
        on_schema_change='fail',
        partition_by={
            'field': 'flight_date',
            'data_type': 'date',
            'granularity': 'day',
        },
        cluster_by=['airline_code', 'origin_airport_key'],
    )
}}

with

flights as (

    select * from {{ ref('stg_flights') }}

    {% if is_incremental() %}
    where
        flight_date >= (
            select
                date_sub(
                    -- an empty table: read everything (dates start in year 1)
                    coalesce(max(flight_date), date '0001-01-10'),
                    interval {{ var('incremental_lookback_days') }} day
                )
            from {{ this }}
        )
    {% endif %}

),

airports as (

    select * from {{ ref('dim_airports') }}

),

aircraft as (

    select * from {{ ref('dim_aircraft') }}

),

flights_with_dimensions as (

    select
        flights.flight_key,
        flights.airline_code,
        flights.flight_number,
        flights.tail_number,
        flights.origin_code as origin_airport_key,
        flights.destination_code,
        flights.flight_date,
        flights.scheduled_hour_at,
        flights.scheduled_departure_at,
        flights.departure_delay_minutes,
        flights.arrival_delay_minutes,
        flights.air_time_minutes,
        flights.distance_miles,
        coalesce(aircraft.aircraft_key, 'unknown') as aircraft_key,
        coalesce(airports.airport_key, 'unknown') as destination_airport_key,
        not flights.has_departed as is_cancelled,
        flights.has_departed and not flights.has_arrived as is_diverted,
        -- On time is under 15 minutes late at arrival, as the US DOT counts it.
        coalesce(flights.arrival_delay_minutes >= 15, false) as is_delayed
    from flights
    left join aircraft
        on flights.tail_number = aircraft.aircraft_key
    left join airports
        on flights.destination_code = airports.airport_key

)

select * from flights_with_dimensions

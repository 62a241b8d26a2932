with

flights as (

    select * from {{ ref('fct_flights') }}

),

airports as (

    select * from {{ ref('dim_airports') }}

),

routes as (

    select
        origin_airport_key,
        destination_code,
        destination_airport_key,
        count(*) as flight_count,
        count(distinct airline_code) as airline_count,
        countif(is_cancelled) as cancelled_count,
        countif(is_delayed) as delayed_count,
        avg(distance_miles) as distance_miles,
        avg(arrival_delay_minutes) as mean_arrival_delay_minutes,
        avg(air_time_minutes) as mean_air_time_minutes
    from flights
    group by origin_airport_key, destination_code, destination_airport_key

),

performance as (

    select
        routes.origin_airport_key,
        routes.destination_code,
        airports.airport_name as destination_name,
        routes.flight_count,
        routes.airline_count,
        routes.cancelled_count,
        routes.delayed_count,
        routes.distance_miles,
        routes.mean_arrival_delay_minutes,
        routes.mean_air_time_minutes,
        safe_divide(
            routes.distance_miles, routes.mean_air_time_minutes / 60
        ) as mean_speed_mph
    from routes
    inner join airports
        on routes.destination_airport_key = airports.airport_key

)

select * from performance

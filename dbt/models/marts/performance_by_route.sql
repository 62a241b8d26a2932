with

flights as (

    select * from {{ ref('fct_flights') }}

),

origins as (

    select * from {{ ref('dim_airports') }}

),

destinations as (

    select * from {{ ref('dim_airports') }}

),

monthly as (

    select
        origin_airport_key,
        destination_airport_key,
        destination_code,
        date_trunc(flight_date_key, month) as month_start,
        count(*) as flight_count,
        countif(is_cancelled) as cancelled_count,
        countif(is_diverted) as diverted_count,
        countif(is_delayed) as delayed_count,
        countif(is_on_time) as on_time_count,
        countif(is_delayed or is_on_time) as arrived_count,
        coalesce(sum(arrival_delay_minutes), 0) as total_arrival_delay_minutes,
        coalesce(sum(air_time_minutes), 0) as total_air_time_minutes,
        coalesce(
            sum(if(is_delayed or is_on_time, distance_miles, null)), 0
        ) as total_arrived_miles
    from flights
    group by
        origin_airport_key,
        destination_airport_key,
        destination_code,
        month_start

),

performance as (

    select
        monthly.origin_airport_key,
        origins.airport_name as origin_name,
        monthly.destination_airport_key,
        monthly.destination_code,
        destinations.airport_name as destination_name,
        monthly.month_start,
        monthly.flight_count,
        monthly.cancelled_count,
        monthly.diverted_count,
        monthly.delayed_count,
        monthly.on_time_count,
        monthly.arrived_count,
        monthly.total_arrival_delay_minutes,
        monthly.total_air_time_minutes,
        monthly.total_arrived_miles,
        monthly.on_time_count / monthly.flight_count as on_time_rate,
        safe_divide(
            monthly.total_arrival_delay_minutes, monthly.arrived_count
        ) as mean_arrival_delay_minutes,
        safe_divide(
            monthly.total_arrived_miles, monthly.total_air_time_minutes / 60
        ) as mean_speed_mph
    from monthly
    inner join origins
        on monthly.origin_airport_key = origins.airport_key
    inner join destinations
        on monthly.destination_airport_key = destinations.airport_key

)

select * from performance

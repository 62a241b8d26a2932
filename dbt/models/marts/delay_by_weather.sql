with

flights as (

    select * from {{ ref('fct_flights') }}

),

weather as (

    select * from {{ ref('stg_weather') }}

),

airports as (

    select * from {{ ref('dim_airports') }}

),

conditions as (

    select
        airport_code,
        observed_at,
        case
            when visibility_miles < 3 then 'low_visibility'
            when precipitation_inches > 0 then 'precipitation'
            when wind_speed_mph >= 20 then 'strong_wind'
            else 'clear'
        end as weather_condition
    from weather

),

flights_with_conditions as (

    select
        flights.origin_airport_key,
        flights.is_cancelled,
        flights.is_diverted,
        flights.is_delayed,
        flights.is_on_time,
        flights.departure_delay_minutes,
        coalesce(conditions.weather_condition, 'unknown') as weather_condition
    from flights
    left join conditions
        on
            flights.origin_code = conditions.airport_code
            and flights.scheduled_hour_at = conditions.observed_at

),

totals as (

    select
        origin_airport_key,
        weather_condition,
        count(*) as flight_count,
        countif(is_cancelled) as cancelled_count,
        countif(is_diverted) as diverted_count,
        countif(is_delayed) as delayed_count,
        countif(is_on_time) as on_time_count,
        countif(not is_cancelled) as departed_count,
        coalesce(sum(departure_delay_minutes), 0)
            as total_departure_delay_minutes
    from flights_with_conditions
    group by origin_airport_key, weather_condition

),

delay as (

    select
        totals.origin_airport_key,
        airports.airport_name as origin_name,
        totals.weather_condition,
        totals.flight_count,
        totals.cancelled_count,
        totals.diverted_count,
        totals.delayed_count,
        totals.on_time_count,
        totals.departed_count,
        totals.total_departure_delay_minutes,
        totals.on_time_count / totals.flight_count as on_time_rate,
        totals.cancelled_count / totals.flight_count as cancellation_rate,
        safe_divide(
            totals.total_departure_delay_minutes, totals.departed_count
        ) as mean_departure_delay_minutes
    from totals
    inner join airports
        on totals.origin_airport_key = airports.airport_key

)

select * from delay

with

flights as (

    select * from {{ ref('fct_flights') }}

),

weather as (

    select * from {{ ref('stg_weather') }}

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
        flights.is_delayed,
        flights.departure_delay_minutes,
        coalesce(conditions.weather_condition, 'unknown') as weather_condition
    from flights
    left join conditions
        on
            flights.origin_airport_key = conditions.airport_code
            and flights.scheduled_hour_at = conditions.observed_at

),

delay as (

    select
        origin_airport_key,
        weather_condition,
        count(*) as flight_count,
        countif(is_cancelled) as cancelled_count,
        countif(is_delayed) as delayed_count,
        avg(departure_delay_minutes) as mean_departure_delay_minutes,
        countif(is_cancelled) / count(*) as cancellation_rate
    from flights_with_conditions
    group by origin_airport_key, weather_condition

)

select * from delay

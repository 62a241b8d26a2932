with

flights as (

    select * from {{ ref('fct_flights') }}

),

airlines as (

    select * from {{ ref('dim_airlines') }}

),

monthly as (

    select
        airline_code,
        date_trunc(flight_date, month) as month_start,
        count(*) as flight_count,
        countif(is_cancelled) as cancelled_count,
        countif(is_diverted) as diverted_count,
        countif(is_delayed) as delayed_count,
        avg(departure_delay_minutes) as mean_departure_delay_minutes,
        avg(arrival_delay_minutes) as mean_arrival_delay_minutes
    from flights
    group by airline_code, month_start

),

punctuality as (

    select
        monthly.airline_code,
        airlines.airline_name,
        monthly.month_start,
        monthly.flight_count,
        monthly.cancelled_count,
        monthly.diverted_count,
        monthly.delayed_count,
        monthly.mean_departure_delay_minutes,
        monthly.mean_arrival_delay_minutes,
        monthly.cancelled_count / monthly.flight_count as cancellation_rate,
        -- Of the flights that arrived where they were meant to.
        safe_divide(
            monthly.flight_count
            - monthly.cancelled_count
            - monthly.diverted_count
            - monthly.delayed_count,
            monthly.flight_count
            - monthly.cancelled_count
            - monthly.diverted_count
        ) as on_time_rate
    from monthly
    inner join airlines
        on monthly.airline_code = airlines.airline_code

)

select * from punctuality

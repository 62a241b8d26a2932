with

flights as (

    select * from {{ ref('fct_flights') }}

),

airlines as (

    select * from {{ ref('dim_airlines') }}

),

monthly as (

    select
        airline_key,
        date_trunc(flight_date_key, month) as month_start,
        count(*) as flight_count,
        countif(is_cancelled) as cancelled_count,
        countif(is_diverted) as diverted_count,
        countif(is_delayed) as delayed_count,
        countif(is_on_time) as on_time_count,
        countif(not is_cancelled) as departed_count,
        countif(is_delayed or is_on_time) as arrived_count,
        coalesce(sum(departure_delay_minutes), 0)
            as total_departure_delay_minutes,
        coalesce(sum(arrival_delay_minutes), 0) as total_arrival_delay_minutes
    from flights
    group by airline_key, month_start

),

punctuality as (

    select
        monthly.airline_key,
        airlines.airline_name,
        monthly.month_start,
        monthly.flight_count,
        monthly.cancelled_count,
        monthly.diverted_count,
        monthly.delayed_count,
        monthly.on_time_count,
        monthly.departed_count,
        monthly.arrived_count,
        monthly.total_departure_delay_minutes,
        monthly.total_arrival_delay_minutes,
        monthly.on_time_count / monthly.flight_count as on_time_rate,
        monthly.cancelled_count / monthly.flight_count as cancellation_rate,
        safe_divide(
            monthly.total_departure_delay_minutes, monthly.departed_count
        ) as mean_departure_delay_minutes,
        safe_divide(
            monthly.total_arrival_delay_minutes, monthly.arrived_count
        ) as mean_arrival_delay_minutes
    from monthly
    inner join airlines
        on monthly.airline_key = airlines.airline_key

)

select * from punctuality

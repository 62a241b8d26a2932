with

flights as (

    select * from {{ ref('stg_flights') }}

),

bounds as (

    select
        date_trunc(min(flight_date), year) as first_day,
        last_day(max(flight_date), year) as last_day
    from flights

),

days as (

    select date_day
    from bounds
    cross join unnest(generate_date_array(first_day, last_day)) as date_day

),

calendar as (

    select
        date_day,
        extract(year from date_day) as year_number,
        extract(quarter from date_day) as quarter_number,
        extract(month from date_day) as month_number,
        extract(isoweek from date_day) as iso_week_number,
        date_trunc(date_day, month) as month_start,
        case extract(month from date_day)
            when 1 then 'janvier'
            when 2 then 'février'
            when 3 then 'mars'
            when 4 then 'avril'
            when 5 then 'mai'
            when 6 then 'juin'
            when 7 then 'juillet'
            when 8 then 'août'
            when 9 then 'septembre'
            when 10 then 'octobre'
            when 11 then 'novembre'
            when 12 then 'décembre'
        end as month_name,
        case extract(dayofweek from date_day)
            when 1 then 'dimanche'
            when 2 then 'lundi'
            when 3 then 'mardi'
            when 4 then 'mercredi'
            when 5 then 'jeudi'
            when 6 then 'vendredi'
            when 7 then 'samedi'
        end as day_name,
        extract(dayofweek from date_day) in (1, 7) as is_weekend
    from days

)

select * from calendar

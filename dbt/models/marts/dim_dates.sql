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

-- BigQuery names months and days in English only.
names as (

    select
        [
            'janvier', 'février', 'mars', 'avril', 'mai', 'juin', 'juillet',
            'août', 'septembre', 'octobre', 'novembre', 'décembre'
        ] as month_names,
        [
            'lundi', 'mardi', 'mercredi', 'jeudi', 'vendredi', 'samedi',
            'dimanche'
        ] as day_names

),

-- BigQuery's week starts on Sunday (1), the ISO week on Monday.
iso_days as (

    select
        date_day,
        extract(month from date_day) as month_number,
        mod(extract(dayofweek from date_day) + 5, 7) + 1 as day_of_week_number
    from days

),

calendar as (

    select
        iso_days.date_day as date_key,
        extract(year from iso_days.date_day) as year_number,
        extract(quarter from iso_days.date_day) as quarter_number,
        iso_days.month_number,
        extract(isoweek from iso_days.date_day) as iso_week_number,
        extract(dayofyear from iso_days.date_day) as day_of_year,
        iso_days.day_of_week_number,
        format_date('%Y-%m', iso_days.date_day) as year_month,
        date_trunc(iso_days.date_day, month) as month_start,
        names.month_names[ordinal(iso_days.month_number)] as month_name,
        names.day_names[ordinal(iso_days.day_of_week_number)] as day_name,
        iso_days.day_of_week_number >= 6 as is_weekend
    from iso_days
    cross join names

)

select * from calendar

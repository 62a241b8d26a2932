with

source as (

    select * from {{ source('nycflights', 'flights') }}

),

renamed as (

    select
        -- ids
        to_hex(
            md5(
                concat(
                    cast(time_hour as string),
                    '|',
                    carrier,
                    '|',
                    cast(flight as string),
                    '|',
                    origin
                )
            )
        ) as flight_key,
        carrier as airline_code,
        flight as flight_number,
        tailnum as tail_number,
        origin as origin_code,
        dest as destination_code,

        -- numerics
        dep_delay as departure_delay_minutes,
        arr_delay as arrival_delay_minutes,
        air_time as air_time_minutes,
        distance as distance_miles,

        -- booleans
        dep_time is not null as has_departed,
        arr_delay is not null as has_arrived,

        -- dates
        date(time_hour, 'America/New_York') as flight_date,

        -- timestamps
        time_hour as scheduled_hour_at,
        timestamp_add(
            time_hour, interval minute minute
        ) as scheduled_departure_at

    from source

)

select * from renamed

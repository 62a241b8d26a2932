with

source as (

    select * from {{ source('nycflights', 'weather') }}

),

renamed as (

    select
        -- ids
        origin as airport_code,

        -- numerics
        temp as temperature_fahrenheit,
        humid as relative_humidity_percent,
        wind_speed as wind_speed_mph,
        precip as precipitation_inches,
        visib as visibility_miles,

        -- timestamps
        time_hour as observed_at

    from source

)

select * from renamed

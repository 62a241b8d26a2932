with

airports as (

    select
        airport_code as airport_key,
        airport_name,
        time_zone,
        latitude,
        longitude,
        altitude_feet
    from {{ ref('stg_airports') }}

),

-- Four destinations are not in the list of airports: their flights count too.
unknown_airport as (

    select
        'unknown' as airport_key,
        'Aéroport inconnu' as airport_name,
        cast(null as string) as time_zone,
        cast(null as float64) as latitude,
        cast(null as float64) as longitude,
        cast(null as int64) as altitude_feet

),

airports_and_unknown as (

    select * from airports
    union all
    select * from unknown_airport

)

select * from airports_and_unknown

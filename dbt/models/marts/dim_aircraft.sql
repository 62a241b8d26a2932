with

aircraft as (

    select
        tail_number as aircraft_key,
        aircraft_type,
        manufacturer,
        model,
        engine_type,
        year_built,
        engine_count,
        seat_count
    from {{ ref('stg_planes') }}

),

-- Some tail numbers are missing, others are not in the register.
unknown_aircraft as (

    select
        'unknown' as aircraft_key,
        'Appareil inconnu' as aircraft_type,
        cast(null as string) as manufacturer,
        cast(null as string) as model,
        cast(null as string) as engine_type,
        cast(null as int64) as year_built,
        cast(null as int64) as engine_count,
        cast(null as int64) as seat_count

),

aircraft_and_unknown as (

    select * from aircraft
    union all
    select * from unknown_aircraft

)

select * from aircraft_and_unknown

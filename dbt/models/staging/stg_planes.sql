with

source as (

    select * from {{ source('nycflights', 'planes') }}

),

renamed as (

    select
        -- ids
        tailnum as tail_number,

        -- strings
        type as aircraft_type,
        manufacturer,
        model,
        engine as engine_type,

        -- numerics
        year as year_built,
        engines as engine_count,
        seats as seat_count

    from source

)

select * from renamed

with

source as (

    select * from {{ source('nycflights', 'airlines') }}

),

renamed as (

    select
        -- ids
        carrier as airline_code,

        -- strings
        name as airline_name

    from source

)

select * from renamed

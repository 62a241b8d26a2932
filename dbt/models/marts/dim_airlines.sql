with

airlines as (

    select
        airline_code as airline_key,
        airline_name
    from {{ ref('stg_airlines') }}

),

-- An airline that flies before it is listed: its flights count too.
unknown_airline as (

    select
        'unknown' as airline_key,
        'Compagnie inconnue' as airline_name

),

airlines_and_unknown as (

    select * from airlines
    union all
    select * from unknown_airline

)

select * from airlines_and_unknown

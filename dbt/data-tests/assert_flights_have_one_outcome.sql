-- Cancelled, diverted, delayed or on time, and one of them only.
select
    flight_key,
    is_cancelled,
    is_diverted,
    is_delayed,
    is_on_time
from {{ ref('fct_flights') }}
where
    cast(is_cancelled as int64)
    + cast(is_diverted as int64)
    + cast(is_delayed as int64)
    + cast(is_on_time as int64)
    != 1

-- A flight that never left has no delay and no air time.
select
    flight_key,
    departure_delay_minutes,
    arrival_delay_minutes,
    air_time_minutes
from {{ ref('fct_flights') }}
where
    is_cancelled
    and (
        departure_delay_minutes is not null
        or arrival_delay_minutes is not null
        or air_time_minutes is not null
    )

select
    id as order_id,
    customer as customer_id,
    cast(ordered_at as timestamp) as ordered_at,
    {{ money.cents_to_euros('subtotal') }} as subtotal
from {{ source('cafe', 'raw_orders') }}

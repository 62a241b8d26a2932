select customer_name from {{ ref('customers') }} order by lifetime_spend desc limit 1

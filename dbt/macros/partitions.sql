{#-
    BigQuery skips the partitions of a table only where their column is compared with
    constants: never with a subquery. These days are asked first, then written in the SQL.
-#}

{#- The newest value of a column of the table being loaded; None when it has no row. -#}
{% macro newest(column) %}
    {{ return(single_value("select max(" ~ column ~ ") from " ~ this)) }}
{% endmacro %}

{#- The first day that an incremental run reads: the last days loaded are read again. -#}
{% macro first_day_to_read(column) %}
    {%- set day = newest(column) -%}
    {%- if day -%}
        date_sub(date '{{ day }}', interval {{ var('incremental_lookback_days') }} day)
    {%- else -%}
        date '0001-01-01'
    {%- endif -%}
{% endmacro %}

{#-
    dbt's merge reads all of its target, to look for each key. Where a row never changes
    partition (meta: rows_keep_their_partition), it is looked for from the oldest one on.
-#}
{% macro bigquery__get_merge_sql(
    target, source, unique_key, dest_columns, incremental_predicates
) %}
    {%- set predicates = [] + (incremental_predicates or []) -%}
    {%- if config.meta_get('rows_keep_their_partition') -%}
        {%- set partition = adapter.parse_partition_by(config.get('partition_by')) -%}
        {%- set oldest = single_value(
            "select min(" ~ partition.field ~ ") from " ~ source
        ) -%}
        {%- set literal = partition.data_type ~ " '" ~ oldest ~ "'" -%}
        {%- do predicates.append(
            "DBT_INTERNAL_DEST." ~ partition.field ~ " >= " ~ literal
            if oldest else "false"
        ) -%}
    {%- endif -%}
    {{ default__get_merge_sql(
        target, source, unique_key, dest_columns, predicates
    ) }}
{% endmacro %}

{% macro single_value(query) %}
    {{ return(run_query(query).columns[0].values() | first) }}
{% endmacro %}

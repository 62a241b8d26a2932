"""The SQL that the tests of `make check` have read: what BigQuery takes, and what it refuses.

Each situation has a folder of its own in one dbt project, which is read once for all of them.
"""

PROJECT = {"dbt_project.yml": "name: corpus\nversion: '1.0'\nprofile: their_own\n"}

# A situation that BigQuery, or dbt, takes -> its files, in the folder of its name.
ACCEPTED = {
    "test_left_aside": {
        "left_aside.yml": """\
models:
  - name: switched_off
    config: {enabled: false}
    columns:
      - {name: id, data_tests: [not_null]}
  - name: left_aside
    columns:
      - name: id
        data_tests:
          - relationships: {arguments: {to: ref('switched_off'), field: id}}
          - relationships: {arguments: {to: ref('nowhere'), field: id}}
""",
        "switched_off.sql": "select 1 as id\n",
        "left_aside.sql": "select 1 as id\n",
    },
    "fields_instead_of_the_struct": {
        "fields_instead.yml": """\
sources:
  - name: instead
    tables:
      - name: customers
        columns:
          - {name: id, data_type: int64}
          - {name: place.city, data_type: string}
          - {name: place.point.x, data_type: FLOAT}
""",
        "fields_instead.sql": "select id, upper(place.city) as city, place.point.x + 0.5 as x\n"
        "from {{ source('instead', 'customers') }}\n",
    },
    "fields_beside_the_struct": {
        "fields_beside.yml": """\
sources:
  - name: beside
    tables:
      - name: orders
        columns:
          - {name: place, data_type: "STRUCT<city STRING, zip STRING>"}
          - {name: place.city, data_type: string}
          - {name: lines, data_type: ARRAY}
          - {name: lines.menu_id, data_type: INTEGER}
""",
        "fields_beside.sql": "select place.zip, line.menu_id + 1 as next_id\n"
        "from {{ source('beside', 'orders') }}\ncross join unnest(lines) as line\n",
    },
    "types_half_said": {
        "types_half_said.yml": """\
sources:
  - name: half
    tables:
      - name: visits
        columns:
          - {name: lines, data_type: RECORD}
          - {name: lines.menu_id, data_type: INTEGER}
      - name: boxes
        columns:
          - {name: box, data_type: STRUCT}
      - name: labels
        columns:
          - {name: labels, data_type: ARRAY}
      - name: tags
        columns:
          - {name: tags, data_type: "ARRAY<STRUCT>"}
      - name: others
        columns:
          - {name: id, data_type: varchar}
""",
        "half_visits.sql": "select line.menu_id from {{ source('half', 'visits') }}\n"
        "cross join unnest(lines) as line\n",
        "half_boxes.sql": "select box.width from {{ source('half', 'boxes') }}\n",
        "half_labels.sql": "select labels[0] as label from {{ source('half', 'labels') }}\n",
        # `tags` alone would be the table.
        "half_tags.sql": "select tag.word from {{ source('half', 'tags') }} as boxes\n"
        "cross join unnest(boxes.tags) as tag\n",
        "half_others.sql": "select id from {{ source('half', 'others') }}\n",
    },
    # A macro asks for the columns of a relation: it casts with their types and picks those that are
    # floats, as dbt_utils does.
    "types_told_to_macros": {
        "types_told.yml": """\
sources:
  - name: told
    tables:
      - name: measures
        columns:
          - {name: ratio, data_type: float64}
          - {name: is_sure, data_type: boolean}
          - {name: place, data_type: "STRUCT<city STRING, point STRUCT<x FLOAT64>>"}
          - {name: lines, data_type: "ARRAY<STRUCT<menu_id INT64>>"}
          - {name: tags, data_type: "ARRAY<STRING>"}
""",
        "types_told.sql": """\
{% set columns = adapter.get_columns_in_relation(source('told', 'measures')) %}
select
{%- for column in columns %}
    cast({{ column.quoted }} as {{ column.data_type }}) as {{ column.name }},
{%- endfor %}
    {{ (columns | selectattr('name', 'equalto', 'ratio') | first).is_float() }} as told
from {{ source('told', 'measures') }}
where {% for column in columns if column.is_float() %}{{ column.name }} > 0{% endfor %}
""",
    },
    "contract_of_fields": {
        "contract_of_fields.yml": """\
models:
  - name: contract_of_fields
    config: {contract: {enforced: true}}
    columns:
      - {name: id, data_type: integer}
      - {name: place.city, data_type: text}
      - {name: place.x, data_type: float}
      - {name: lines, data_type: array}
      - {name: lines.menu_id, data_type: int64}
""",
        # dbt puts the fields of a struct in the order of the contract.
        "contract_of_fields.sql": "select 1 as id, struct(0.5 as x, 'Lyon' as city) as place,\n"
        "    [struct(1 as menu_id)] as lines\n",
    },
    "contract_over_guesses": {
        "contract_over_guesses.yml": """\
sources:
  - {name: unknown, tables: [{name: orders}]}
models:
  - name: guessed_promise
    config: {contract: {enforced: true}}
    columns:
      - {name: id, data_type: int64}
""",
        "guessed_promise.sql": "select id from {{ source('unknown', 'orders') }}\n",
    },
    "sum_of_many_terms": {
        "deep_sum.sql": f"select {' + '.join(['1'] * 70)} as total\n",
        "deep_guess.sql": f"select {' + '.join(['x'] * 70)} as total\n"
        "from {{ source('unknown', 'orders') }}\n",
    },
    "seed_of_floats": {
        "seed_of_floats.yml": "seeds:\n  - name: floats\n    config: {column_types: {x: float}}\n",
        "seeds/floats.csv": "x\n1\n",
        "read_floats.sql": "select x + 0.5 as y from {{ ref('floats') }}\n",
    },
    "last_partition": {
        "last_partition.sql": """\
{{ config(
    materialized='incremental', incremental_strategy='insert_overwrite',
    partition_by={'field': 'day', 'data_type': 'date'}
) }}
select current_date() as day, 1 as id
{% if is_incremental() %}
from (select 1) where _dbt_max_partition < current_date()
{% endif %}
""",
        "last_partition_of_a_merge.sql": """\
{{ config(
    materialized='incremental', unique_key='id', on_schema_change='append_new_columns',
    partition_by={'field': 'at_', 'data_type': 'timestamp', 'granularity': 'hour'}
) }}
select current_timestamp() as at_, 1 as id
{% if is_incremental() %}
from (select 1) where _dbt_max_partition < current_timestamp()
{% endif %}
""",
    },
    "nameless_column_of_an_ephemeral_model": {
        "nameless.sql": "{{ config(materialized='ephemeral') }}\nselect 1, 2, 3 as n\n",
        "read_nameless.sql": "select n from {{ ref('nameless') }}\n",
    },
    "test_of_some_commands": {
        "tests/gated.sql": "{% if flags.WHICH in ('test', 'build') %}\n"
        "select id from {{ ref('left_aside') }} where id = 2\n{% endif %}\n",
        "tests/never.sql": "{% if flags.WHICH == 'run' %}select 1{% endif %} -- {{ 1 }}\n/* */\n",
    },
    # The first table is tried first for a name without a table; its star then gives it twice.
    "columns_beside_a_star": {
        "bare.yml": """\
sources:
  - name: bare
    tables: [{name: orders}, {name: customers}, {name: events}]
  - name: seen
    tables: [{name: orders, columns: [{name: id, data_type: int64}, {name: x, data_type: int64}]}]
""",
        "star_on.sql": "select o.*, name from {{ source('bare', 'orders') }} as o\n"
        "join {{ source('bare', 'customers') }} as c on o.customer_id = c.id\n",
        "star_comma.sql": "select o.*, amount + 1 as more, amount\n"
        "from {{ source('bare', 'orders') }} as o, {{ source('bare', 'customers') }}\n",
        "star_using.sql": "select name, o.* from {{ source('bare', 'orders') }} as o\n"
        "left join {{ source('bare', 'customers') }} using (id)\n",
        "star_of_ctes.sql": """\
with orders as (select * from {{ source('bare', 'orders') }}),
customers as (select * from {{ source('bare', 'customers') }}),
joined as (
    select orders.* except (note), email, signup_day from orders left join customers using (id)
)
select email, joined.* except (email) from joined
""",
        "star_of_arrays.sql": "select e.*, key from {{ source('bare', 'events') }} as e\n"
        "cross join unnest(params)\n",
        "three_tables.sql": "select o.*, zip from {{ source('bare', 'orders') }} as o\n"
        "join {{ source('bare', 'customers') }} using (id)\n"
        "join {{ source('bare', 'events') }} using (visit_id)\n",
        "order_of_distinct.sql": "select distinct c.* from {{ source('bare', 'orders') }}\n"
        "cross join {{ source('bare', 'customers') }} as c order by name\n",
    },
    # Without a column of that name in its own table, a subquery reads that of the table around it.
    "names_of_a_subquery": {
        "grouped_around.sql": """\
select o.id, (select max(price) from {{ source('bare', 'events') }} where order_id = o.id) as price
from {{ source('bare', 'orders') }} as o group by o.id
""",
        "typed_around.sql": "select id, exists(\n"
        "    select 1 from {{ source('bare', 'events') }} where x = 'a'\n"
        ") as has_a from {{ source('seen', 'orders') }}\n",
        "one_column_of_a_star.sql": "select id in (\n"
        "    select * except (id, kind) from {{ source('bare', 'events') }}\n"
        ") as is_parent from {{ source('bare', 'events') }} where parent_id is null\n",
    },
    "names_of_a_header": {
        "header_variable.sql": "{{ config(sql_header='declare first_id int64 default 3;') }}\n"
        "select 1 as id from (select 1) where 1 < first_id\n",
        "header_table.sql": "{{ config(sql_header='create temp table seen as select 1 as id;') }}\n"
        "select id from seen\n",
    },
    "external_tables": {
        "external.yml": """\
sources:
  - name: lake
    tables:
      - name: days
        external:
          location: gs://lake/*
          options: {hive_partition_uri_prefix: gs://lake}
          partitions: [{name: day, data_type: date}]
        columns: [{name: id, data_type: int64}]
      - name: unsaid
        external: {location: gs://lake/*, options: {hive_partition_uri_prefix: gs://lake}}
        columns: [{name: id, data_type: int64}]
""",
        "external_days.sql": "select id, extract(year from day) as year, _file_name as file\n"
        "from {{ source('lake', 'days') }}\n",
        "external_unsaid.sql": "select id + 1 as id, day from {{ source('lake', 'unsaid') }}\n",
    },
    "quoted_names_in_yaml": {
        "quoted_names.yml": """\
sources:
  - name: quoted
    tables: [{name: orders, columns: [{name: "`order`", data_type: string}]}]
models:
  - name: quoted_names
    config: {contract: {enforced: true}}
    columns: [{name: "`order`", data_type: string}]
""",
        "quoted_names.sql": "select `order` from {{ source('quoted', 'orders') }}\n",
    },
    # The analyser calls these unreleased, or knows no graph.
    "language_of_bigquery": {
        "private.sql": """\
select with differential_privacy options(
    epsilon = 1, delta = 0.01, max_groups_contributed = 2, privacy_unit_column = id
) x, avg(id, contribution_bounds_per_group => (0, 10)) as mean
from {{ source('seen', 'orders') }} group by x
""",
        "like_any.sql": "select 'a' like any unnest(['a%']) as is_like\n",
        "graph.sql": "select * from graph_table(shop.g match (a)-[b]->(c) return a.id as id)\n",
        "levels.sql": "select sum(max(id) group by x) as total\n"
        "from {{ source('seen', 'orders') }}\n",
        "arrays_as_keys.sql": "select distinct [id] as ids from {{ source('seen', 'orders') }}\n",
    },
    "match_recognize": {
        "match_recognize.sql": """\
select *
from (select 'a' as symbol, 1 as price, 1 as at_)
match_recognize (
    partition by symbol
    order by at_
    measures first(up.price) as first_price
    pattern (up+)
    define up as price > 0
)
""",
    },
}

# A situation that BigQuery, or dbt, refuses -> its files, in the folder of its name, and what is
# said of it.
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    # The incremental SQL turns on a guessed type, and counts for its grammar alone. If the columns
    # of the full refresh counted as unknown with it, the model that reads `nope` would pass.
    "column_that_a_guessed_full_refresh_does_not_give": (
        {
            "guessed_load.yml": """\
sources:
  - {name: nobody, tables: [{name: orders}]}
""",
            "guessed_load.sql": """\
{{ config(materialized='incremental') }}
select id, lower(status) as state from {{ source('nobody', 'orders') }}
{% if is_incremental() %} where status + 1 > 2 {% endif %}
""",
            "guessed_reader.sql": "select nope from {{ ref('guessed_load') }}\n",
        },
        "guessed_reader.sql, ligne 1 (modèle guessed_reader) :\n    Unrecognized name: nope",
    ),
    "name_that_a_star_gives_as_well": (
        {
            "given_twice.sql": "select *, upper(name) as name\n"
            "from {{ source('bare', 'customers') }}\n"
        },
        "given_twice.sql, ligne 1 (modèle given_twice) :\n"
        "    CREATE TABLE has columns with duplicate name name\n",
    ),
    "name_that_the_header_has_not": (
        {
            "other_header.sql": "{{ config(sql_header='declare first_id int64 default 3;') }}\n"
            "select 1 as id from (select 1) where 1 < last_id\n",
        },
        "other_header.sql, ligne 2 (modèle other_header) :\n    Unrecognized name: last_id\n",
    ),
    "external_table_without_the_column": (
        {"lost_day.sql": "select id, dai from {{ source('lake', 'days') }}\n"},
        "lost_day.sql, ligne 1 (modèle lost_day) :\n    Unrecognized name: dai; Did you mean day?",
    ),
    "json_as_a_key": (
        {"json_key.sql": "select j from (select parse_json('1') as j) group by j\n"},
        "json_key.sql, ligne 1 (modèle json_key) :\n"
        "    Grouping by expressions of type JSON is not allowed\n",
    ),
    "json_in_an_order": (
        {"json_order.sql": "select j from (select parse_json('1') as j) order by j\n"},
        "json_order.sql, ligne 1 (modèle json_order) :\n"
        "    ORDER BY does not support expressions of type JSON\n",
    ),
    "json_that_is_distinct": (
        {"json_distinct.sql": "select distinct j from (select parse_json('1') as j)\n"},
        "json_distinct.sql, ligne 1 (modèle json_distinct) :\n"
        "    Column j of type JSON cannot be used in SELECT DISTINCT\n",
    ),
    "arrays_that_are_compared": (
        {"same_arrays.sql": "select [1] = [1] as is_same\n"},
        "same_arrays.sql, ligne 1 (modèle same_arrays) :\n"
        "    Equality is not defined for arguments of type ARRAY<INT64>\n",
    ),
    # Refused whatever the columns are.
    "aggregate_in_where": (
        {"where_sum.sql": "select id from {{ source('bare', 'orders') }}\nwhere sum(amount) > 3\n"},
        "where_sum.sql, ligne 2 (modèle where_sum) :\n"
        "    Aggregate function SUM not allowed in WHERE clause\n",
    ),
    "having_without_group": (
        {"having.sql": "select id from {{ source('bare', 'orders') }} having amount > 3\n"},
        "having.sql, ligne 1 (modèle having) :\n    The HAVING clause requires GROUP BY",
    ),
    "qualify_without_window": (
        {"qualify.sql": "select id from {{ source('bare', 'orders') }} qualify amount > 3\n"},
        "qualify.sql, ligne 1 (modèle qualify) :\n    The QUALIFY clause requires",
    ),
    "aggregate_of_an_aggregate": (
        {"sum_of_max.sql": "select sum(max(x)) as x from {{ source('bare', 'orders') }}\n"},
        "sum_of_max.sql, ligne 1 (modèle sum_of_max) :\n    Multi-level aggregation requires",
    ),
    "arguments_that_no_signature_has": (
        {"if_of_two.sql": "select if(is_paid, 1) as x from {{ source('bare', 'orders') }}\n"},
        "if_of_two.sql, ligne 1 (modèle if_of_two) :\n    No matching signature for function IF\n",
    ),
    "field_that_the_struct_has_not": (
        {"lost_field.sql": "select place.point.y from {{ source('instead', 'customers') }}\n"},
        "lost_field.sql, ligne 1 (modèle lost_field) :\n    Field name y does not exist in",
    ),
    "contract_without_a_type": (
        {
            "untyped.yml": """\
models:
  - name: untyped
    config: {contract: {enforced: true}}
    columns:
      - {name: id, data_type: int64}
      - {name: day_name}
""",
            "untyped.sql": "select 1 as id, 'lundi' as day_name\n",
        },
        "untyped.sql (modèle untyped) :\n"
        "    contrat incomplet : day_name n'a pas de data_type (STRING dans le SQL)\n",
    ),
    "contract_of_a_type_that_does_not_exist": (
        {
            "misspelt.yml": """\
models:
  - name: misspelt
    config: {contract: {enforced: true}}
    columns:
      - {name: day_name, data_type: strng}
      - {name: rate, data_type: "struct<x double>"}
""",
            "misspelt.sql": "select 'lundi' as day_name, struct(0.5 as x) as rate\n",
        },
        "misspelt.sql (modèle misspelt) :\n    contrat non tenu\n"
        "    day_name : BigQuery n'a pas de type strng ; le plus proche est STRING\n"
        "    rate : BigQuery n'a pas de type double ; le plus proche est FLOAT64\n",
    ),
    "contract_of_other_fields": (
        {
            "other_fields.yml": """\
models:
  - name: other_fields
    config: {contract: {enforced: true}}
    columns:
      - {name: box, data_type: "struct<nope string>"}
      - {name: ratio, data_type: int64}
      - {name: tags, data_type: string}
""",
            "other_fields.sql": "select struct(1 as x) as box, 0.5 as ratio, ['a'] as tags\n",
        },
        "other_fields.sql (modèle other_fields) :\n    contrat non tenu\n"
        "    box.x : INT64 dans le SQL, absente dans le YAML\n"
        "    ratio : FLOAT64 dans le SQL, INT64 dans le YAML\n"
        "    tags : ARRAY<STRING> dans le SQL, STRING dans le YAML\n"
        "    box.nope : absente dans le SQL, STRING dans le YAML\n",
    ),
    "seed_of_a_type_that_does_not_exist": (
        {
            "misspelt_seed.yml": "seeds:\n  - name: words\n"
            "    config: {column_types: {word: varchar}}\n",
            "seeds/words.csv": "word\na\n",
        },
        "words.csv (seed words) :\n"
        "    word : BigQuery n'a pas de type varchar ; le plus proche est STRING\n",
    ),
    "last_partition_of_another_type": (
        {
            "wrong_partition.sql": """\
{{ config(
    materialized='incremental', incremental_strategy='insert_overwrite',
    partition_by={'field': 'day', 'data_type': 'date'}
) }}
select current_date() as day
{% if is_incremental() %}
from (select 1) where _dbt_max_partition > 20240101
{% endif %}
""",
        },
        "wrong_partition.sql, ligne 7 (modèle wrong_partition, en incrémental) :\n"
        "    No matching signature for operator > for argument types: DATE, INT64\n",
    ),
    "last_partition_that_dbt_does_not_declare": (
        {
            "merged_partition.sql": """\
{{ config(
    materialized='incremental', unique_key='day', partition_by={'field': 'day', 'data_type': 'date'}
) }}
select current_date() as day
{% if is_incremental() %}
from (select 1) where _dbt_max_partition < current_date()
{% endif %}
""",
        },
        "merged_partition.sql, ligne 6 (modèle merged_partition, en incrémental) :\n"
        "    Unrecognized name: _dbt_max_partition\n",
    ),
    "nameless_column_of_a_table": (
        {"all_nameless.sql": "select * from {{ ref('nameless') }}\n"},
        "all_nameless.sql, ligne 1 (modèle all_nameless) :\n    CREATE TABLE columns must be named",
    ),
    # The same mistake is in the full refresh and in the incremental SQL: said twice, it would pass
    # for two.
    "incremental_model_refused_twice_for_one_reason": (
        {
            "twice.yml": """\
models:
  - name: twice
    columns:
      - {name: wrong, data_type: bool}
""",
            "twice.sql": """\
{{ config(materialized='incremental') }}
select 'a' = 1 as wrong
{% if is_incremental() %}
from (select 1) where not exists (select 1 from {{ this }})
{% endif %}
""",
        },
        "twice.sql, ligne 2 (modèle twice) :\n    No matching signature for operator =",
    ),
}


def list_files() -> dict[str, str]:
    """Return the files of the whole project: path -> text."""
    situations = ACCEPTED | {name: files for name, (files, _) in REFUSED.items()}
    return PROJECT | {
        locate(situation, path): text
        for situation, files in situations.items()
        for path, text in files.items()
    }


def locate(situation: str, path: str) -> str:
    """Return where in the project a file of a situation is."""
    folder, _, name = path.rpartition("/")
    return f"{folder or 'models'}/{situation}/{name}"

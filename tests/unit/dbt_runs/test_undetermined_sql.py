"""A node whose result depends on more than the project and its sources is found by its text."""

import pytest

from bi_pipeline.dbt_runs.undetermined_sql import find_undetermined

UNNAMED = "nomme une table sans ref() ni source()"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("select current_date() as day", "appelle current_date"),
        ("select CURRENT_TIMESTAMP", "appelle current_timestamp"),
        ("select '--', current_date() as day", "appelle current_date"),
        ("select rand() as x", "appelle rand"),
        ("select generate_uuid() as id", "appelle generate_uuid"),
        ("select session_user() as who", "appelle session_user"),
        ("select @@session_id as id", "appelle @@session_id"),
        ("select '{{ run_started_at }}' as at", "appelle run_started_at"),
        ("select '{{ invocation_id }}' as id", "appelle invocation_id"),
        ("select '{{ env_var(\"REGION\") }}' as region", "appelle env_var"),
        ("select {{ modules.datetime.datetime.now() }}", "appelle modules"),
        ("{{ dbt.current_timestamp() }}", "appelle current_timestamp"),
        ("{{ dbt_utils.get_relations_by_prefix('a', 'b') }}", "appelle get_relations_by_prefix"),
        ("select {{ graph['nodes'] | length }}", "appelle graph"),
        ("select * from {{ ref('a') }} tablesample system (10 percent)", "appelle tablesample"),
        ("execute immediate 'select * from raw.b'", "appelle execute immediate"),
        ("create temp function d() returns string language js as 'Date.now()'", "appelle date.now"),
        ("select keys.new_keyset('AEAD_AES_GCM_256') as key", "nomme keys.new_keyset"),
        ("select * from external_query('c', 'select 1')", "appelle external_query"),
        ("select * from raw.flights", "nomme raw.flights sans ref() ni source()"),
        ("select * from `p.raw.flights`", "nomme `p.raw.flights` sans ref() ni source()"),
        ("select * from my-project.raw.flights", "nomme my-project.raw.flights"),
        ("select * from {{ ref('a') }}, raw.b", "nomme raw.b"),
        ("select * from {{ ref('a') }} join raw.b using (id)", "nomme raw.b"),
        ("select * from (raw.b join {{ ref('a') }} using (id))", "nomme raw.b"),
        ("select 1 where 1 in (select id from raw.b)", "nomme raw.b"),
        ("with raw as (select * from raw.flights) select * from raw", "nomme raw.flights"),
        ("select 1 -- it's\nfrom raw.b -- that's", "nomme raw.b"),
        ("select * from ml.predict(model `raw.m`, (select 1))", "nomme ml.predict"),
        ("select raw.convert(x) from {{ ref('a') }}", "nomme raw.convert"),
        ("select * from appends(table raw.b, null, null)", "nomme raw.b"),
        ("merge into {{ this }} as t using raw.b as s on t.id = s.id", "nomme raw.b"),
        ("select * from {{ target.schema }}.a", UNNAMED),
        ("select * from {{ this.schema }}.b", UNNAMED),
        ("select * from {{ this.incorporate(path={'identifier': 'b'}) }}", UNNAMED),
        ("select * from {{ ref('a') | replace('stg', 'raw') }}", UNNAMED),
        ("{% set t = this.schema ~ '.b' %} select * from {{ t }}", UNNAMED),
        ("{{ all_rows('raw' ~ '.' ~ 'b') }}", UNNAMED),
        ("{{ all_rows(target.schema ~ '.b') }}", UNNAMED),
        ("select * from {{ var('table') }}", UNNAMED),
        ("{% set t = 'raw.b' %} select * from {{ t }}", UNNAMED),
        ("{% set q = run_query('select max(x) from raw.b') %} select 1", UNNAMED),
        ("{{ union_all(['raw.a', 'raw.b']) }}", UNNAMED),
        ("{% set q = 'select 1 from ' ~ var('table') %} select {{ q }}", UNNAMED),
        ("select * from {{ api.Relation.create(schema='raw', identifier='b') }}", "appelle api"),
    ],
)
def test_what_depends_on_more_is_found(text, reason):
    assert find_undetermined(text).startswith(reason)


@pytest.mark.parametrize(
    "text",
    [
        "select * from {{ ref('a') }} as a join {{ source('s', 't') }} as b on a.id = b.id",
        "with a as (select * from {{ ref('a') }}) select * from a, a.items, unnest(a.others)",
        "select extract(day from t.moment) from {{ ref('a') }} as t",
        "select a.x is distinct from a.y from {{ ref('a') }} as a",
        "select 'current_date'::x -- rand()".replace("'current_date'::x", "1"),
        "{# current_date #} select 1 /* from raw.b */",
        "select randomised, brand from {{ ref('a') }}",
        "select safe.substr(name, 1), net.host(url) from {{ ref('a') }}",
        "select geo.country, 'a.b from c.d' from {{ ref('a') }}",
        "select max(id) from {{ this }}",
        "{% set t = ref('a') %} select * from {{ t }}",
        "{% for t in [ref('a'), ref('b')] %} select * from {{ t }} {% endfor %}",
        "{% test positive(model, column_name) %} select * from {{ model }} {% endtest %}",
        "{% macro new(column) %}{{ one('select max(' ~ column ~ ') from ' ~ this) }}{% endmacro %}",
        "select * from {{ dbt_utils.union_relations([ref('a'), ref('b')]) }}",
    ],
)
def test_what_depends_on_the_project_and_its_sources_alone_is_not(text):
    assert find_undetermined(text) == ""

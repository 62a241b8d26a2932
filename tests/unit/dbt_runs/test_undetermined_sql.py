"""A node whose result depends on more than the project and its sources is found by its text."""

import pytest

from bi_pipeline.dbt_runs.undetermined_sql import find_undetermined, takes_a_table

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
        ("select `rand`() as x", "appelle rand"),
        ("{% macro now(kind) %}current_{{ kind }}(){% endmacro %}", "appelle current_"),
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
        ("select * from appends(table raw.b, null, null)", "appelle appends"),
        ("merge into {{ this }} as t using raw.b as s on t.id = s.id", "nomme raw.b"),
        ("select * from {{ target.schema }}.a", UNNAMED),
        ("select * from {{ ref('a') }} a join {{ this.schema }}.b using (id)", UNNAMED),
        ("select * from {{ ref('a') }} {{ var('how') }} join {{ target.schema }}.b on x", UNNAMED),
        ("select `# client`, current_date() as jour from {{ ref('a') }}", "appelle current_date"),
        ("select `chiffre d'affaires` from raw.b where `date d'achat` > 1", "nomme raw.b"),
        ("select '{{ x | replace('#', '') }}' as x, current_date()", "appelle current_date"),
        ("select 1 -- {% set today = run_started_at %}", "appelle run_started_at"),
        ("with raw as (select 1) select * from raw as r join raw.b b on true", "nomme raw.b"),
        ("select * from {{ ref('a') }} s join {{ ref('b') }} on s > 1 join a.b on x", "nomme a.b"),
        ("select * from {{ var('orders', ref('a')) }}", UNNAMED),
        ("select * from {{ ref('a') if var('x') else var('orders') }}", UNNAMED),
        ("select * from {{ var('source') }}", UNNAMED),
        ("{% for t in [ref('a'), var('raw')] %} select * from {{ t }} {% endfor %}", UNNAMED),
        ("{% macro m(days=var('days')) %} select * from {{ var('raw') }} {% endmacro %}", UNNAMED),
        ("{% set full = '%s.%s' % (dataset, name) %} select * from {{ full }}", UNNAMED),
        ("{% set q = 'select max(d) from ' + var('t') %} {{ run_query(q) }}", UNNAMED),
        ("{% set q = 'select 1 from %s.orders' % target.schema %}", UNNAMED),
        ("{% set q = 'select 1 from a, raw.b' %}", UNNAMED),
        ("select {{ py_current_timestring() }}", "appelle py_current_timestring"),
        ("select '{{ dbt_metadata_envs }}'", "appelle dbt_metadata_envs"),
        ("{% set g = graph %}", "appelle graph"),
        ("{{ context['now_' ~ x]() }}", "appelle context"),
        ("create table x clone raw.b", "nomme raw.b"),
        ("select * from graph_table(raw.b match (a) return a.x)", "nomme raw.b"),
        ("graph raw.b match (a) return a.x", "nomme raw.b"),
        ("{% set t = ref('a') %}{% set t = 'raw.b' %} select * from {{ t }}", UNNAMED),
        ("select * from {{ this.schema }}.b", UNNAMED),
        ("select * from {{ this.schema }}_raw.b", UNNAMED),
        ("select * from raw_{{ var('x') }}.b", UNNAMED),
        ("select * from{{ var('x') }}", UNNAMED),
        ("select * from {{ this.incorporate(path={'identifier': 'b'}) }}", UNNAMED),
        ("select * from {{ ref('a') | replace('stg', 'raw') }}", UNNAMED),
        ("{% set t = this.schema ~ '.b' %} select * from {{ t }}", UNNAMED),
        ("select * from {{ var('table') }}", UNNAMED),
        ("{% set t = 'raw.b' %} select * from {{ t }}", UNNAMED),
        ("{% set q = run_query('select max(x) from raw.b') %} select 1", UNNAMED),
        ("{% set q = 'select 1 from ' ~ var('table') %} select {{ q }}", UNNAMED),
        ("select * from {{ api.Relation.create(schema='raw', identifier='b') }}", "appelle api"),
    ],
)
def test_what_depends_on_more_is_found(text, reason):
    assert find_undetermined(text).startswith(reason)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("{{ stage('raw.b') }}", True),
        ("{{ stage('raw' ~ '.' ~ 'b') }}", True),
        ("{{ stage(target.schema ~ '.b') }}", True),
        ("{{ stage(var('orders')) }}", True),
        ("{% set t = var('orders') %} {{ stage(t) }}", True),
        ("with raw as (select 1) {{ stage('raw') }}", False),
        ("{{ stage(ref('a')) }}", False),
        ("{{ stage(ref('a'), except=['x'] + ['y']) | trim }}", False),
        ("{% set t = source('s', 'a') %} {{ stage(t) }}", False),
        ("{{ test_stage(**_dbt_generic_test_kwargs) }}", False),
    ],
)
def test_macro_that_reads_the_table_it_is_given_may_be_given_one_of_the_project(text, is_found):
    assert bool(find_undetermined(text, frozenset({"stage", "test_stage"}))) is is_found


@pytest.mark.parametrize(
    ("text", "takes"),
    [
        ("{% macro stage(t) %} select * from {{ t }} {% endmacro %}", True),
        ("{% macro m(t, days=var('days')) %} select * from {{ t }} {% endmacro %}", True),
        ("{% macro m(t) %}{{ return(adapter.dispatch('stage')(t)) }}{% endmacro %}", True),
        ("{% macro m(t) %}{% do run_query('select 1 from ' ~ t) %}{% endmacro %}", True),
        ("{% macro m(x) %} cast({{ x }} as date) {% endmacro %}", False),
        ("{% macro m() %} select * from {{ ref('a') }} {% endmacro %}", False),
    ],
)
def test_macro_that_reads_a_table_it_is_given_is_known(text, takes):
    assert takes_a_table(text, frozenset({"stage"})) is takes


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
        "select {{ dbt_utils.generate_surrogate_key(['o.id', 'o.day']) }} from {{ ref('a') }} o",
        "{% set step = 'cleaned' %} with cleaned as (select 1) select * from {{ step }}",
        "with {{ x }}_latest as (select * from {{ ref('a') }}) select * from {{ x }}_latest",
        "{{ exceptions.warn('gone from a future.release, use b.c') }} select 1",
        "select modules, thread_id, api.id from {{ ref('a') }} as api",
        "select {{ modules.re.sub('a', 'b', x) }} from {{ ref('a') }}",
        "select * from {{ ref('a') }} as t where exists (select 1 from t.items)",
        "select * from {{ ref('a') }} t left join unnest(t.items) as i, i.parts",
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

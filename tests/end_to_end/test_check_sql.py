"""make check: what Google's own analyser says of a dbt project, offline."""

import os
import shutil

import pytest

import check_sql
from bi_pipeline.settings import PROJECT_ROOT
from check_sql_corpus import ACCEPTED, REFUSED, list_files, locate
from project import DBT_PROJECT, ONE_MODEL, copy_project, run_main
from support.dbt_offline import DEFAULTS

pytestmark = pytest.mark.slow

# SQL that DuckDB, hence the local BigQuery, accepts and Google refuses; the number of the line that
# is wrong, and Google's words.
ACCEPTED_LOCALLY = {
    "month_later": (
        "select\n    timestamp_add(timestamp '2013-01-01', interval 1 month) as later",
        2,
        "TIMESTAMP_ADD does not support the MONTH date part",
    ),
    "lateral_alias": (
        "select\n    1 as distance,\n    distance * 2 as return_distance",
        3,
        "Unrecognized name: distance",
    ),
    "number_as_text": (
        "with\n\nflights as (select 1 as id)\n\nselect id\nfrom flights\nwhere\n    id = '1'",
        8,
        "No matching signature for operator =",
    ),
}

# Another team's project: every kind of node, a macro that asks for columns, an ephemeral model.
CAFE = {
    "dbt_project.yml": "name: cafe\nversion: '1.0'\nprofile: their_own\n",
    "seeds/menu_seed.csv": "id,name,price\n1,café,1.5\n2,thé,2.0\n",
    "macros/star.sql": """\
{% macro star(relation) %}
{%- for column in adapter.get_columns_in_relation(relation) %}
    {{ column.name }},
{%- endfor %}
{% endmacro %}
""",
    "models/schema.yml": """\
sources:
  - name: till
    tables:
      - name: sales
        columns:
          - {name: id, data_type: INTEGER}
          - {name: amount, data_type: float}
          - {name: lines, data_type: "array<struct<menu_id int64, quantity int64>>"}
          - {name: sold_at, data_type: timestamp}
      - name: weather
      - name: tips
models:
  - name: menu
    columns:
      - name: id
        data_tests: [not_null, unique]
  - name: promise
    config: {contract: {enforced: true}}
    columns:
      - {name: id, data_type: string}
      - {name: name, data_type: string}
""",
    "source_columns.yml": "till.tips:\n  amount: INT64\n",
    "models/tips.sql": "select amount\nfrom {{ source('till', 'tips') }}\nwhere amount = 'dix'\n",
    "models/promise.sql": "select id, name from {{ ref('menu') }}\n",
    # since.sql asks BigQuery where to start. If that query were refused, instead of answered by no
    # row, the mistake `sold_by` would be missed.
    "models/since.sql": """\
{{ config(materialized='incremental') }}

select id, sold_at
from {{ ref('sales') }}
{% if is_incremental() %}
{% set days = run_query('select max(sold_at) from ' ~ this).columns[0].values() %}
where sold_by >= timestamp '{{ days | first or '2013-01-01' }}'
{% endif %}
""",
    "models/sales.sql": "select id, sold_at from {{ source('till', 'sales') }}\n",
    "models/menu.sql": "select\n    {{ star(ref('menu_seed')) }}\n    current_timestamp() as at_\n"
    "from {{ ref('menu_seed') }}\n",
    "models/sold.sql": "{{ config(materialized='ephemeral') }}\n"
    "select id, line.quantity, sold_at\nfrom {{ source('till', 'sales') }}\n"
    "cross join unnest(lines) as line\n",
    "models/daily.sql": """\
{{ config(materialized='incremental', unique_key='id') }}

select id, quantity, sold_at
from {{ ref('sold') }}
{% if is_incremental() %}
where sold_at > (
    select max(sold_on)
    from {{ this }}
)
{% endif %}
""",
    # `word | length` counts the marks of the lines too, which changes the SQL: the line of the
    # mistake cannot be known.
    "models/counts.sql": "{% set word %}four{% endset %}\n"
    "select {{ word | length }} as letters, nope\n",
    "models/history.sql": "select id, dbt_valid_from from {{ ref('menu_history') }}\n",
    "models/rain.sql": "select rain.millimetres from {{ source('till', 'weather') }} as rain\n",
    "models/wet.sql": "select millimetres from {{ ref('rain') }}\n",
    "models/with_udf.sql": "select `projet.outils.propre`(name) as name from {{ ref('menu') }}\n",
    "models/asks.sql": "{% set rows = run_query('select 1 as n') %}\n"
    "select {{ rows.columns[0][0] if execute else 0 }} as n\n",
    "models/forest.py": "def model(dbt, session):\n    return dbt.ref('menu')\n",
    "models/hooked.sql": "{{ config(post_hook='drop table x') }}\nselect 1 as a\n",
    "models/pruned.sql": "{{ config(materialized='table', require_partition_filter=true) }}\n"
    "select 1 as a\n",
    "snapshots/menu_history.sql": "{% snapshot menu_history %}\n"
    "{{ config(unique_key='id', strategy='check', check_cols='all') }}\n"
    "select id, name from {{ ref('menu') }}\n{% endsnapshot %}\n",
    "tests/dear.sql": "select id\nfrom {{ ref('menu') }}\nwhere price > 'dix'\n",
}


@pytest.fixture(scope="session")
def compiled_module(tmp_path_factory):
    """The folder in which the runs of these tests keep the compiled analyser.

    If `make lint` has not compiled it, the first run does.
    """
    folder, made = tmp_path_factory.mktemp("googlesql"), PROJECT_ROOT / ".local/check/googlesql"
    if made.exists():
        shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder


def check(root, cache, dbt_files, *arguments):
    """Check a copy of the project, without any server; `cache` holds the compiled analyser."""
    project = copy_project(root, dict(os.environ), dbt_files)
    (project.root / ".local" / "check").mkdir(parents=True)
    (project.root / ".local" / "check" / "googlesql").symlink_to(cache)
    run = project.run("utilities/check_sql.py", *arguments)
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def cafe_report(tmp_path_factory, compiled_module):
    """The report on a team's project in dbt/, with what the local BigQuery accepts."""
    models = {f"models/{name}.sql": sql for name, (sql, _, _) in ACCEPTED_LOCALLY.items()}
    return check(tmp_path_factory.mktemp("cafe-check"), compiled_module, CAFE | models)


@pytest.fixture(scope="module")
def corpus_report(tmp_path_factory, compiled_module):
    """The report on the corpus, a dbt project elsewhere, whose files stay as they are."""
    root = tmp_path_factory.mktemp("corpus-check")
    for path, text in list_files().items():
        (root / "corpus" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "corpus" / path).write_text(text)
    before = sorted((root / "corpus").rglob("*"))
    report = check(root, compiled_module, ONE_MODEL, "--project-dir", str(root / "corpus"))
    assert sorted((root / "corpus").rglob("*")) == before
    return report


def test_what_the_local_bigquery_accepts_and_google_does_not_is_refused(cafe_report, bigquery):
    for name, (sql, line, words) in ACCEPTED_LOCALLY.items():
        assert list(bigquery.query_and_wait(sql))
        place = f"dbt/models/{name}.sql, ligne {line} (modèle {name}) :\n    {words}"
        assert place in cafe_report


def test_error_in_the_incremental_branch_alone_is_found(cafe_report):
    place = "dbt/models/daily.sql, ligne 7 (modèle daily, en incrémental) :"
    assert f"{place}\n    Unrecognized name: sold_on; Did you mean sold_at?" in cafe_report
    # since.sql asks BigQuery where to start: its mistake has to be found all the same.
    place = "dbt/models/since.sql, ligne 7 (modèle since, en incrémental) :"
    assert f"{place}\n    Unrecognized name: sold_by" in cafe_report


def test_error_in_a_test_is_found_and_nothing_else_is(cafe_report):
    assert "dbt/tests/dear.sql, ligne 3 (test dear)" in cafe_report
    assert f"{6 + len(ACCEPTED_LOCALLY)} refusées" in cafe_report, cafe_report


def test_line_that_is_not_sure_is_not_said(cafe_report):
    place = "dbt/models/counts.sql (modèle counts) :\n    Unrecognized name: nope\n"
    assert f"{place}    select 4 as letters, nope\n" in cafe_report


def test_contract_that_the_sql_does_not_keep_is_refused(cafe_report):
    place = "dbt/models/promise.sql (modèle promise) :\n    contrat non tenu\n"
    assert f"{place}    id : INT64 dans le SQL, STRING dans le YAML\n" in cafe_report
    assert "name :" not in cafe_report


def test_source_without_types_has_those_that_the_project_keeps(cafe_report):
    place = "dbt/models/tips.sql, ligne 3 (modèle tips) :"
    assert f"{place}\n    No matching signature for operator =" in cafe_report


def test_source_that_the_kept_file_lacks_is_said_with_the_command(cafe_report):
    assert "! Dans dbt/source_columns.yml, il manque till.weather : `make types`" in cafe_report


@pytest.mark.parametrize(
    "line",
    [
        "(modèle Python) : forest",
        "(hors de portée : Function not found: `projet.outils.propre`) : with_udf",
        "(interroge BigQuery pendant sa compilation) : asks",
        "(scripts : hooks et sql_header) : hooked",
        "(filtre de partition exigé de ceux qui lisent) : pruned",
    ],
)
def test_what_cannot_be_judged_is_listed(cafe_report, line):
    assert f"! Pas jugé {line}\n" in cafe_report


@pytest.mark.parametrize("situation", ACCEPTED)
def test_what_bigquery_takes_is_not_refused(corpus_report, situation):
    files = [locate(situation, path) for path in ACCEPTED[situation]]

    assert not [path for path in files if path in corpus_report], corpus_report


@pytest.mark.parametrize("situation", REFUSED)
def test_what_bigquery_refuses_is_refused_once(corpus_report, situation):
    _, said = REFUSED[situation]

    assert f"/{situation}/{said}" in corpus_report
    assert corpus_report.count(f"/{situation}/") == 1, corpus_report


def test_columns_of_a_source_that_nobody_describes_are_guessed(cafe_report):
    why = "source till.weather sans `data_type` à chaque colonne"
    assert f"! Colonnes devinées ({why}) : rain, wet\n" in cafe_report
    assert ", dont 2 avec des colonnes devinées" in cafe_report.splitlines()[-1]


def test_type_that_the_yaml_half_says_is_guessed(corpus_report):
    for name in ("visits", "boxes", "labels", "tags"):
        why = f"source half.{name} sans `data_type` à chaque colonne"
        assert f"! Colonnes devinées ({why}) : half_{name}\n" in corpus_report
    why = "others.id : BigQuery n'a pas de type varchar ; le plus proche est STRING"
    assert f"! Colonnes devinées ({why}) : half_others\n" in corpus_report
    assert "! Pas jugé (SQL vide) : never\n" in corpus_report


def test_expression_that_is_too_deep_for_the_analyser_is_not_judged(corpus_report):
    assert "(hors de portée : Expression too deep for zetasql) : deep_" in corpus_report
    assert "deep_sum" in corpus_report
    assert "deep_guess" in corpus_report


def test_contract_that_rests_on_guesses_is_said_not_to_be_judged(corpus_report):
    why = "contrat : ses colonnes viennent de colonnes devinées"
    assert f"! Pas jugé ({why}) : guessed_promise\n" in corpus_report


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("models/lost.sql", "select * from {{ ref('nowhere') }}", ["nowhere", "Corrigez "]),
        (
            "packages.yml",
            "packages: [{package: dbt-labs/dbt_utils, version: 1.3.0}]",
            ["dbt_packages", "dbt deps --project-dir"],
        ),
    ],
    ids=["wrong reference", "no package"],
)
def test_project_that_dbt_cannot_parse_is_said_in_its_words_with_the_remedy(
    path, text, words, tmp_path, monkeypatch
):
    folder = tmp_path / "dbt"
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(DBT_PROJECT)
    (folder / path).write_text(text)
    # Where the tool writes.
    monkeypatch.setattr(check_sql, "PROJECT_ROOT", tmp_path)

    run = run_main(check_sql.main, "--project-dir", str(folder), environment=DEFAULTS)

    assert run.returncode == 2
    assert all(word in run.stderr for word in [*words, str(folder)]), run.stderr

"""A task that bqemulator cannot do is done all the same, or said at once with the way round."""

import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from project import DBT_PROJECT, copy_project

pytestmark = pytest.mark.slow

DOUBLE = (
    "functions: [{name: double, arguments: [{name: x, data_type: int64}], "
    "returns: {data_type: int64}}]"
)
YESTERDAY = datetime.now(UTC).date() - timedelta(days=1)
INCREMENTAL = "{{{{ config(materialized='incremental', {}) }}}}\n"
BY_DAY = (
    "incremental_strategy='insert_overwrite', partition_by={'field': 'day', 'data_type': 'date'}"
)
BY_BATCH = (
    f"incremental_strategy='microbatch', event_time='at', batch_size='day', begin='{YESTERDAY}', "
    "partition_by={'field': 'at', 'data_type': 'timestamp', 'granularity': 'day'}"
)
CANNOT_BE_BUILT = {
    "models/learn.py": "def model(dbt, session):\n    return session.sql('select 1 as id')\n",
    "models/place.sql": "select st_geogpoint(1, 2) as place",
    "models/paint.sql": "select * from {{ ref('colours') }}",
    "models/late.sql": INCREMENTAL.format(BY_BATCH) + "select * from {{ ref('colours') }}",
    "seeds/colours.csv": "id,name\n1,red\n",
    "functions/wrong.sql": "nowhere(x) * 2",
    "functions/wrong.yml": DOUBLE.replace("double", "wrong"),
}
# At its second run, a model writes the first day again, and gains columns or loses some.
DAYS = """
{% if is_incremental() %} select date '2024-01-01' as day, 2 as id
{% else %} select date '2024-01-01' as day, 1 as id union all select date '2024-01-02', 1
{% endif %}"""
SYNCED = """select 1 as id,
{% if is_incremental() %} 2 as added, ['a'] as list {% else %} 'x' as gone, 'y' as went {% endif %}
"""
PROMISED = """select date_trunc(day, month) as month
{% if is_incremental() %}, 2 as added {% endif %} from {{ ref('overwritten') }} group by 1"""
CONTRACT = """
models:
  - name: promised
    config: {contract: {enforced: true}}
    columns:
      - {name: month, data_type: date, constraints: [{type: not_null}]}
"""
BUILT_TWICE = {
    "dbt_project.yml": DBT_PROJECT
    + "models: {+grants: {'roles/bigquery.dataViewer': ['user:someone@example.com']}}\n",
    "models/becomes_a_table.sql": "select 1 as id",
    "models/données.sql": "{{ config(materialized='table') }} select 1 as id",
    "models/doubled.sql": "select {{ function('double') }}(21) as id",
    "functions/double.sql": "x * 2",
    "functions/double.yml": DOUBLE,
    "models/overwritten.sql": INCREMENTAL.format(BY_DAY) + DAYS,
    "models/moments.sql": (
        "{{ config(event_time='at') }}\n"
        "select timestamp_sub(current_timestamp(), interval n day) as at from unnest([0, 1]) as n"
    ),
    "models/batched.sql": INCREMENTAL.format(BY_BATCH) + "select * from {{ ref('moments') }}",
    "models/synced.sql": INCREMENTAL.format("unique_key='id', on_schema_change='sync_all_columns'")
    + SYNCED,
    "models/promised.sql": INCREMENTAL.format(
        "unique_key='month', on_schema_change='append_new_columns'"
    )
    + PROMISED,
    "models/promised.yml": CONTRACT,
}
CHANGES = {
    "models/becomes_a_table.sql": "{{ config(materialized='table') }} select 2 as id",
    "models/promised.yml": CONTRACT + "      - {name: added, data_type: int64}\n",
}


def read(bigquery, query):
    return [tuple(row) for row in bigquery.query(query).result()]


@pytest.fixture(scope="module")
def builds(tmp_path_factory, local_environment):
    """A project that is built, then changed and built again, beside what cannot be built."""
    project = copy_project(tmp_path_factory.mktemp("twice"), local_environment, BUILT_TWICE)
    first = project.run_pipeline("--commands", "build")
    assert first.returncode == 0, first.stderr
    for path, text in (CHANGES | CANNOT_BE_BUILT).items():
        (project.root / "dbt" / path).parent.mkdir(exist_ok=True)
        (project.root / "dbt" / path).write_text(text)
    second = project.run_pipeline("--commands", "build", "--exclude", "colours")
    return SimpleNamespace(dataset=project.environment["DBT_BIGQUERY_DATASET_DEV"], second=second)


@pytest.fixture(scope="module")
def built_twice(builds):
    """The dataset of what is built twice."""
    return builds.dataset


def test_what_cannot_be_built_is_said_at_once_and_nothing_else_fails(builds):
    assert builds.second.returncode == 1
    end = builds.second.stderr[builds.second.stderr.rindex("\ndbt build a échoué") :]
    assert (
        "wrong (functions/wrong.sql) : Le BigQuery local (bqemulator) échoue : Catalog Error: "
        "Scalar Function with name nowhere does not exist! Corrigez la requête ; si le vrai "
        "BigQuery l'accepte, laissez ce nœud de côté ici (--exclude)"
    ) in end
    assert "(models/learn.py) : le BigQuery local ne sait pas exécuter un modèle Python" in end
    assert "(models/place.sql) : le BigQuery local ne sait pas calculer en géographie" in end
    assert (
        " ; colours est un seed de ce projet, pas encore chargé : --commands seed run test"
    ) in next(line for line in end.splitlines() if "late (models/late.sql) : lots" in line)
    assert (
        "paint (models/paint.sql) : colours est un seed de ce projet, pas encore chargé : "
        "--commands seed run test"
    ) in end
    assert re.search(r"Done\..* ERROR=5 ", builds.second.stderr)
    assert "essai" not in builds.second.stderr


def test_view_becomes_a_table(built_twice, bigquery):
    """Which dbt asks for by deleting the view."""
    assert bigquery.get_table(f"{built_twice}.becomes_a_table").table_type == "TABLE"
    assert read(bigquery, f"select * from {built_twice}.becomes_a_table") == [(2,)]


def test_incremental_model_overwrites_its_partitions(built_twice, bigquery):
    rows = read(bigquery, f"select cast(day as string), id from {built_twice}.overwritten")

    assert sorted(rows) == [("2024-01-01", 2), ("2024-01-02", 1)]


def test_batch_takes_the_place_of_the_one_before(built_twice, bigquery):
    query = f"select count(*), count(distinct date(at)) from {built_twice}.batched"

    ((count, days),) = read(bigquery, query)

    assert count == days >= 2


def test_model_gains_and_loses_columns(built_twice, bigquery):
    table = bigquery.get_table(f"{built_twice}.synced")

    assert [field.name for field in table.schema] == ["id", "added", "list"]
    assert read(bigquery, f"select * from {built_twice}.synced") == [(1, 2, ["a"])]


def test_contract_is_kept(built_twice, bigquery):
    month, added = bigquery.get_table(f"{built_twice}.promised").schema

    assert (month.field_type, added.field_type) == ("DATE", "INT64")
    rows = read(bigquery, f"select cast(month as string), added from {built_twice}.promised")
    assert rows == [("2024-01-01", 2)]


def test_model_with_an_accent_and_one_that_calls_a_function_are_built(built_twice, bigquery):
    query = f"select * from `{built_twice}`.`données` union all select * from {built_twice}.doubled"

    assert sorted(read(bigquery, query)) == [(1,), (42,)]

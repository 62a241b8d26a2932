"""A task that bqemulator cannot do is done all the same, or said at once with the way round."""

import io
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from google.cloud.bigquery import CopyJobConfig, LoadJobConfig, SchemaField, SourceFormat

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
        "wrong : Le BigQuery local (bqemulator) échoue : Catalog Error: "
        "Scalar Function with name nowhere does not exist! Corrigez la requête ; si le vrai "
        "BigQuery l'accepte, laissez ce nœud de côté ici (--exclude)"
    ) in end
    assert "learn : le BigQuery local ne sait pas exécuter un modèle Python" in end
    assert "place : le BigQuery local ne sait pas calculer en géographie" in end
    assert (
        " ; colours est un seed de ce projet, pas encore chargé : --commands seed run test"
    ) in next(line for line in end.splitlines() if "late : lots" in line)
    assert (
        "paint : colours est un seed de ce projet, pas encore chargé : --commands seed run test"
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


def load(bigquery, table, disposition="WRITE_APPEND"):
    config = LoadJobConfig(
        source_format=SourceFormat.NEWLINE_DELIMITED_JSON, write_disposition=disposition
    )
    bigquery.load_table_from_file(io.BytesIO(b'{"id": 5}'), table, job_config=config).result()


def copy(bigquery, table, disposition):
    config = CopyJobConfig(write_disposition=disposition)
    bigquery.copy_table("dated.other", table, job_config=config).result()


def change_schema(bigquery, name):
    table = bigquery.get_table(name)
    table.schema = [*table.schema, SchemaField("patched", "STRING")]
    bigquery.update_table(table, ["schema"])


WRITES = {
    "insert": "insert into {} (id) values (2)",
    "insert of dbt": "/* {{}} */ insert into `projet-local`.`dated`.`t` (id) select 1",
    "update": "update {} set id = 3 where true",
    "delete": "delete from {} where id = 1",
    "delete from an alias": "delete from {} as t where t.id = 1",
    "merge": (
        "merge into {} as t using (select 1 as id) as s on t.id = s.id "
        "when matched then update set id = 9 when not matched then insert (id) values (s.id)"
    ),
    "truncate": "truncate table {}",
    "replace": "create or replace table {} as select 1 as id",
    "drop and create": "drop table {0}; create table {0} as select 1 as id",
    "add a column": "alter table {} add column added string",
    "transaction": "begin transaction; insert into {} (id) values (4); commit transaction",
    "block": "begin insert into {} (id) values (4); select 1; end",
    "script": "declare x int64 default 4; update {} set id = x where true; select 1",
    "execute immediate": "execute immediate 'insert into {} (id) values (?)' using 4",
    "replace by execute immediate": (
        "execute immediate 'create or replace table {} as select 1 as id'"
    ),
    "load": load,
    "load of all": lambda client, table: load(client, table, "WRITE_TRUNCATE"),
    "rows": lambda client, table: client.insert_rows_json(table, [{"id": 6}]),
    "copy": lambda client, table: copy(client, table, "WRITE_APPEND"),
    "copy of all": lambda client, table: copy(client, table, "WRITE_TRUNCATE"),
    "schema": change_schema,
}
READS = {
    "select": "select * from {}",
    "select in a script": "declare x int64 default 1; select * from {} where id = x",
    "read by a write": "insert into dated.other (id) select id from {}",
    "tables.get": lambda client, table: client.get_table(table),
    "rows": lambda client, table: list(client.list_rows(client.get_table(table))),
    "copy": lambda client, table: client.copy_table(table, "dated.copied").result(),
}


@pytest.fixture(scope="module")
def dated(bigquery):
    """A dataset with a table that others are copied from."""
    bigquery.create_dataset("dated")
    read(bigquery, "create or replace table dated.other as select 7 as id")
    yield
    bigquery.delete_dataset("dated", delete_contents=True)


@pytest.fixture
def follow(bigquery, dated):
    """Return a function that does something to a table, and returns its times before and after."""

    def read_time():
        return bigquery.get_table("dated.t").modified

    def follow(action):
        read(bigquery, "create or replace table dated.t as select 1 as id")
        before = read_time()
        if callable(action):
            action(bigquery, "dated.t")
        else:
            read(bigquery, action.format("dated.t"))
        return before, read_time()

    return follow


@pytest.mark.parametrize("name", WRITES)
def test_write_changes_the_time_of_a_table(name, follow):
    before, after = follow(WRITES[name])

    assert after > before


@pytest.mark.parametrize("name", READS)
def test_read_does_not_change_the_time_of_a_table(name, follow):
    before, after = follow(READS[name])

    assert after == before


def test_view_that_is_replaced_changes_its_time(bigquery, dated):
    times = []
    for _ in range(2):
        read(bigquery, "create or replace view dated.v as select 1 as id")
        times.append(bigquery.get_table("dated.v").modified)

    assert times[0] < times[1]

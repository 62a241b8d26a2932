"""make types: the columns of the sources, asked of BigQuery and kept in the dbt project."""

import pytest
import yaml

from project import run_main
from record_sources import main
from support.source_columns import HEADER

DATASET = "test_record_sources"
SOURCES = """\
sources:
  - name: shop
    schema: "{{ env_var('DBT_BIGQUERY_DATASET_RAW') }}"
    tables:
      - name: sales
      - name: recent
      - name: events
        identifier: events_*
"""
TABLES = [
    "create table {}.sales "
    "(id int64, amount float64, tags array<string>, client struct<number int64>)",
    "create view {}.recent as select id, amount from {}.sales",
    "create table {}.events_20240102 (old string)",
    # The newest: not the last by its name.
    "create table {}.events_20240101 (name string)",
]
KEPT = """\
shop.events:
  name: STRING
shop.recent:
  id: INT64
  amount: FLOAT64
shop.sales:
  id: INT64
  amount: FLOAT64
  tags: ARRAY<STRING>
  client: STRUCT<number INT64>
"""


@pytest.fixture
def folder(tmp_path):
    """A dbt project with three sources."""
    (tmp_path / "models").mkdir()
    (tmp_path / "dbt_project.yml").write_text("name: shop\nprofile: shop\n")
    (tmp_path / "models" / "sources.yml").write_text(SOURCES)
    return tmp_path


@pytest.fixture
def record(folder, local_environment, bigquery):
    """Return a function that runs the command on the project, whose tables are there."""
    bigquery.delete_dataset(DATASET, delete_contents=True, not_found_ok=True)
    bigquery.create_dataset(DATASET)
    for sql in TABLES:
        bigquery.query_and_wait(sql.replace("{}", DATASET))
    environment = local_environment | {"DBT_BIGQUERY_DATASET_RAW": DATASET}
    arguments = ("--project-dir", str(folder))
    return lambda *more: run_main(main, *arguments, *more, environment=environment)


def test_columns_of_tables_views_and_wildcards_are_kept_the_same_each_time(record, folder):
    first = record()
    kept = (folder / "source_columns.yml").read_text()
    second = record()

    assert (first.returncode, first.stderr) == (0, "")
    assert "+ shop.sales : 4 colonnes\n" in first.stdout
    assert kept == HEADER + KEPT
    assert second.stdout == (
        f"Rien n'a changé dans {folder.name}/source_columns.yml (3 sources, 7 colonnes).\n"
    )
    assert (folder / "source_columns.yml").read_text() == kept


def test_what_changed_is_said_and_what_cannot_be_read_stays(record, folder, bigquery):
    (folder / "source_columns.yml").write_text(KEPT)
    bigquery.delete_table(f"{DATASET}.recent")
    bigquery.query_and_wait(f"create or replace table {DATASET}.sales (id int64, tags string)")

    run = record()

    assert run.returncode == 2
    change = (
        "! shop.sales : amount a disparu ; client a disparu ; tags est STRING, était ARRAY<STRING>"
    )
    assert f"{change}\n" in run.stdout
    assert "✗ shop.recent : " in run.stderr
    assert "models/sources.yml" in run.stderr
    kept = (folder / "source_columns.yml").read_text()
    assert kept == HEADER + KEPT.partition("shop.sales:\n")[0] + (
        "shop.sales:\n  id: INT64\n  tags: STRING\n"
    )


def test_yaml_is_shown_and_nothing_is_written(record, folder):
    run = record("--yaml")

    assert run.returncode == 0, run.stderr
    (source,) = yaml.safe_load(run.stdout)["sources"]
    tables = {table["name"]: table["columns"] for table in source["tables"]}
    assert tables["events"] == [{"name": "name", "data_type": "STRING"}]
    assert {path.name for path in folder.iterdir()} == {"models", "dbt_project.yml"}

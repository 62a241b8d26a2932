"""The sample data: what lands in BigQuery."""

from datetime import UTC, datetime

import pytest

from load_sample_data import main
from project import in_environment, run_main
from support import sample_data
from support.sample_data import TABLES, read_table

ROWS = {"airlines": 16, "airports": 1458, "planes": 3322, "weather": 26115, "flights": 336776}


def test_tables_have_every_row_and_a_loading_time(bigquery, local_environment):
    dataset = local_environment["DBT_BIGQUERY_DATASET_RAW"]
    sql = "select count(*) as n, count(_loaded_at) as loaded from {}.{}"

    counts = {
        name: next(iter(bigquery.query_and_wait(sql.format(dataset, name)))).values()
        for name in TABLES
    }

    assert counts == {name: (rows, rows) for name, rows in ROWS.items()}


def test_na_is_null():
    planes = read_table("planes", datetime.now(UTC))

    assert planes["year"].null_count == 70
    assert "NA" not in planes["engine"].to_pylist()


@pytest.mark.parametrize(
    "text",
    ["", "version: 2", "sources: [{name: ventes}]", "sources: [{name: nycflights, tables: }]"],
)
def test_sources_of_another_project_describe_nothing(text, tmp_path, monkeypatch):
    (tmp_path / "_sources.yml").write_text(text)
    monkeypatch.setattr(sample_data, "SOURCES", tmp_path / "_sources.yml")

    assert sample_data.read_table_descriptions() == {}


def test_loading_again_leaves_the_same_rows(local_environment, bigquery):
    """The local servers have loaded them at their start."""
    run = run_main(main, environment=local_environment)

    assert run.returncode == 0, run.stderr
    assert "367 687 lignes chargées" in run.stdout
    dataset = local_environment["DBT_BIGQUERY_DATASET_RAW"]
    counts = {name: bigquery.get_table(f"{dataset}.{name}").num_rows for name in TABLES}
    assert counts == ROWS


def test_unreachable_prefect_api_is_named(local_environment, capsys):
    elsewhere = {"PREFECT_API_URL": "http://127.0.0.1:1/api"}

    with in_environment(local_environment | elsewhere):
        assert main([]) == 3

    assert elsewhere["PREFECT_API_URL"] in capsys.readouterr().err


def test_missing_dataset_is_named_with_the_remedy(local_environment, capsys):
    with in_environment(local_environment | {"DBT_BIGQUERY_DATASET_RAW": "pas_la"}):
        assert main([]) == 2

    said = capsys.readouterr().err
    assert "pas_la" in said
    assert "make infra" in said

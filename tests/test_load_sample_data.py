"""The sample data: what lands in BigQuery."""

from datetime import UTC, datetime

from conftest import ONE_MODEL

from load_sample_data import TABLES, read_table

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
    planes = read_table(TABLES["planes"], datetime.now(UTC))

    assert planes["year"].null_count == 70
    assert "NA" not in planes["engine"].to_pylist()


def test_tables_and_columns_are_described_and_flights_are_partitioned(bigquery, local_environment):
    dataset = local_environment["DBT_BIGQUERY_DATASET_RAW"]

    flights = bigquery.get_table(f"{dataset}.flights")

    assert flights.description == TABLES["flights"].description
    assert all(field.description for field in flights.schema)
    assert flights.time_partitioning.field == "time_hour"
    assert flights.time_partitioning.type_ == "DAY"


def test_loading_again_leaves_the_same_rows(make_project, bigquery):
    project = make_project(ONE_MODEL)
    dataset = "test_load_again_raw"
    bigquery.create_dataset(dataset)

    runs = [
        project.run("utilities/load_sample_data.py", DBT_BIGQUERY_DATASET_RAW=dataset)
        for _ in range(2)
    ]

    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr
    assert "367 687 lignes chargées" in runs[1].stdout
    assert bigquery.get_table(f"{dataset}.flights").num_rows == ROWS["flights"]


def test_missing_dataset_is_named_with_the_remedy(make_project):
    project = make_project(ONE_MODEL)

    run = project.run("utilities/load_sample_data.py", DBT_BIGQUERY_DATASET_RAW="pas_la")

    assert run.returncode == 2
    assert "pas_la" in run.stderr
    assert "make infra" in run.stderr
    assert "Traceback" not in run.stderr

"""What the dbt project says of its sources, and what BigQuery has of it."""

from datetime import UTC, datetime

import pytest

from support.sample_data import TABLES, make_table_schema, read_table, read_table_descriptions


@pytest.mark.parametrize("name", TABLES)
def test_source_declares_the_columns_and_types_that_are_loaded(name):
    source = read_table_descriptions()[name]
    types = {"STRING": "string", "INTEGER": "int64", "FLOAT": "float64", "TIMESTAMP": "timestamp"}

    schema = make_table_schema(read_table(name, datetime.now(UTC)), source)

    assert {column["name"]: column["data_type"] for column in source["columns"]} == {
        field.name: types[field.field_type] for field in schema
    }


def test_loaded_tables_and_columns_are_described_and_flights_are_partitioned(
    bigquery, local_environment
):
    flights = bigquery.get_table(f"{local_environment['DBT_BIGQUERY_DATASET_RAW']}.flights")

    assert flights.description == "Une ligne par vol programmé, annulé ou non."
    assert all(field.description for field in flights.schema)
    assert flights.time_partitioning.field == "time_hour"
    assert flights.time_partitioning.type_ == "DAY"

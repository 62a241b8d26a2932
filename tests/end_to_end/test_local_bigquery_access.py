"""What the user of the local BigQuery reaches through it: data, and nothing else."""

import io
from decimal import Decimal

import fastavro
import pytest
from google.api_core.exceptions import BadRequest, Forbidden
from google.cloud.bigquery import LoadJobConfig, SchemaField, SourceFormat, Table


@pytest.mark.parametrize(
    "sql",
    [
        "select content from read_text('{}/secret')",
        "create table {dataset}.stolen as select content from read_text('{}/secret')",
        "begin select content from read_text('{}/secret'); end",
        "copy (select 1) to '{}/written'",
        "select * from read_csv('http://127.0.0.1:1/x.csv')",
    ],
)
def test_sql_reaches_neither_files_nor_network(sql, bigquery, local_environment, tmp_path):
    (tmp_path / "secret").write_text("secret")
    dataset = local_environment["DBT_BIGQUERY_DATASET_DEV"]

    with pytest.raises(BadRequest, match="disabled by configuration"):
        bigquery.query(sql.format(tmp_path, dataset=dataset), job_retry=None).result()

    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


@pytest.fixture
def table(bigquery, local_environment):
    """A table with a decimal, in a dataset of the session."""
    name = f"{bigquery.project}.{local_environment['DBT_BIGQUERY_DATASET_DEV']}.prices"
    yield bigquery.create_table(Table(name, [SchemaField("price", "NUMERIC")]))
    bigquery.delete_table(name)


def test_load_opens_no_file_of_the_user(bigquery, table, tmp_path):
    """Avro with a decimal, which bqemulator reads by itself, without DuckDB."""
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9}
    schema = {"type": "record", "name": "x", "fields": [{"name": "price", "type": decimal}]}
    with (tmp_path / "secret.avro").open("wb") as file:
        fastavro.writer(file, schema, [{"price": Decimal(1)}])
    config = LoadJobConfig(source_format=SourceFormat.AVRO)

    with pytest.raises(BadRequest, match="n'ouvre aucun fichier"):
        bigquery.load_table_from_uri(f"{tmp_path}/secret.avro", table, job_config=config).result()

    assert bigquery.get_table(table).num_rows == 0


def test_extract_writes_no_file_of_the_user(bigquery, table, tmp_path):
    with pytest.raises(Forbidden, match="n'ouvre aucun fichier"):
        bigquery.extract_table(table, f"file://{tmp_path}/written.csv").result()

    assert list(tmp_path.iterdir()) == []


def test_what_is_sent_is_loaded(bigquery, table):
    config = LoadJobConfig(source_format=SourceFormat.CSV, skip_leading_rows=1)

    bigquery.load_table_from_file(io.BytesIO(b"price\n1\n2\n"), table, job_config=config).result()

    assert bigquery.get_table(table).num_rows == 2

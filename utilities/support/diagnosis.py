"""Prints what is ready and what is missing, one line each, with the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import PipelineSettings
from support.bigquery_access import read_dataset_location

if TYPE_CHECKING:
    from google.cloud.bigquery import Client


class Diagnosis:
    """The lines said so far, and whether the pipeline would fail."""

    def __init__(self, errors: TextIO | None = None) -> None:
        self.failed, self._errors = False, errors

    def say_ready(self, what: str) -> None:
        """Say that something is ready."""
        print(f"✓ {what}")

    def say_doubtful(self, what: str) -> None:
        """Say that something may be a mistake, such as a variable whose name is misspelt."""
        print(f"! {what}")

    def say_missing(self, what: str, remedy: str = "") -> None:
        """Say that something is missing, and what to do unless `what` says it already."""
        self.failed = True
        print(f"✗ {what}" + (f"\n    → {remedy}" if remedy else ""), file=self._errors)


def check_datasets(diagnosis: Diagnosis, settings: PipelineSettings, client: Client) -> None:
    """Say of each dataset whether it exists, in the region that GCP_REGION names."""
    for dataset in settings.datasets:
        name = f"Dataset {client.project}.{dataset}"
        try:
            location = read_dataset_location(client, dataset)
        except ConfigurationError as error:
            diagnosis.say_missing(str(error))
            continue
        if settings.region and location.lower() != settings.region.lower():
            diagnosis.say_missing(
                f"{name} est en {location}, GCP_REGION dit {settings.region}",
                "mettez la même région dans GCP_REGION, ou laissez-la vide",
            )
        else:
            diagnosis.say_ready(f"{name} ({location})")

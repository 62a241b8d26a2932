"""What is ready and what is missing, one line each, with the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import PipelineSettings
from support.bigquery_access import dataset_location

if TYPE_CHECKING:
    from google.cloud.bigquery import Client


class Diagnosis:
    """The lines said so far, and whether the pipeline would fail."""

    def __init__(self, errors: TextIO | None = None) -> None:
        self.failed, self._errors = False, errors

    def ready(self, what: str) -> None:
        """Say that something is ready."""
        print(f"✓ {what}")

    def doubtful(self, what: str) -> None:
        """Say that something may not be meant so."""
        print(f"! {what}")

    def missing(self, what: str, remedy: str = "") -> None:
        """Say that something is missing, and what to do unless `what` says it already."""
        self.failed = True
        print(f"✗ {what}" + (f"\n    → {remedy}" if remedy else ""), file=self._errors)


def check_datasets(diagnosis: Diagnosis, settings: PipelineSettings, client: Client) -> None:
    """The datasets exist, where GCP_REGION says."""
    for dataset in settings.datasets:
        name = f"Dataset {client.project}.{dataset}"
        try:
            location = dataset_location(client, dataset)
        except ConfigurationError as error:
            diagnosis.missing(str(error))
            continue
        if settings.region and location.lower() != settings.region.lower():
            diagnosis.missing(
                f"{name} est en {location}, GCP_REGION dit {settings.region}",
                "mettez la même région dans GCP_REGION, ou laissez-la vide",
            )
        else:
            diagnosis.ready(f"{name} ({location})")

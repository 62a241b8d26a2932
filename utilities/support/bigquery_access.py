"""The BigQuery client of the tools, with the credentials and the settings that dbt has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bi_pipeline.bigquery.connection import (
    choose_project,
    import_credentials_block_class,
    load_credentials,
    make_google_credentials,
)
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.lifetime.local_servers import ensure_prefect_server
from bi_pipeline.settings import PipelineSettings, load_settings
from warm_dbt.tokens import read_token

if TYPE_CHECKING:
    from google.cloud.bigquery import Client
    from prefect_gcp import GcpCredentials


def make_bigquery_client(block: GcpCredentials, settings: PipelineSettings) -> Client:
    """Return a BigQuery client of the project, region and endpoint that dbt uses.

    Asks Google for a token first. Otherwise, credentials that Google refuses would fail in the
    first request, and would be reported as the fault of a dataset.
    Raises google-auth's RefreshError or TransportError, ConfigurationError without a project.
    """
    from google.api_core.client_options import ClientOptions
    from google.cloud.bigquery import Client

    credentials = make_google_credentials(block, settings)
    read_token(credentials)
    return Client(
        project=choose_project(block, settings),
        credentials=credentials,
        location=settings.region,
        client_options=ClientOptions(
            api_endpoint=settings.endpoint,
            universe_domain=credentials.universe_domain,
        ),
    )


def connect_to_bigquery() -> tuple[Client, PipelineSettings]:
    """Return a client with the credentials block that the settings name, and the settings.

    If the settings of Prefect name no server, starts one that ends with this process.
    """
    ensure_prefect_server(while_it_boots=import_credentials_block_class)
    settings = load_settings()
    return make_bigquery_client(load_credentials(settings.credentials_block), settings), settings


def read_dataset_location(client: Client, dataset: str) -> str:
    """Return the location of a dataset, asking BigQuery once.

    Raises ConfigurationError, with BigQuery's reason, when it does not show the dataset.
    """
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    try:
        location: str = client.get_dataset(dataset, retry=None, timeout=30).location
    except (GoogleAPICallError, GoogleAuthError, OSError) as error:
        reason = str(getattr(error, "message", error)).splitlines()[0]
        raise ConfigurationError(
            f"Dataset {client.project}.{dataset} : {reason}\n"
            "    → vérifiez que `make infra` l'a créé et que le compte de service y a accès"
        ) from None
    return location

"""The content of the local servers: a throwaway key, the datasets, the sample data, the block."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bi_pipeline.settings import PipelineSettings

if TYPE_CHECKING:
    from prefect_gcp import GcpCredentials

PROJECT_ID = "projet-local"
DATASETS = {
    "DBT_BIGQUERY_DATASET_RAW": "projet_local_raw",
    "DBT_BIGQUERY_DATASET_DEV": "projet_local_dev",
    "DBT_BIGQUERY_DATASET_PROD": "projet_local_prod",
}
# In Google's universe, google-auth would look the account up at Google's hosts, with retries and a
# warning. In a universe of our own it signs its tokens itself, and cannot reach Google by mistake.
UNIVERSE_DOMAIN = "bigquery.local"


def make_throwaway_key() -> dict[str, str]:
    """Return the key of a service account that exists nowhere, new at each start."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    email = f"pipeline@{PROJECT_ID}.iam.gserviceaccount.com"
    return {
        "type": "service_account",
        "project_id": PROJECT_ID,
        "private_key_id": secrets.token_hex(20),
        "private_key": pem.decode(),
        "client_email": email,
        "client_id": "0",
        "token_uri": "https://oauth2.bigquery.local/token",
        "universe_domain": UNIVERSE_DOMAIN,
    }


def derive_public_key(credentials_info: dict[str, str]) -> str:
    """Return the public half of this key, in PEM."""
    from cryptography.hazmat.primitives import serialization

    private_key = serialization.load_pem_private_key(
        credentials_info["private_key"].encode(), password=None
    )
    return (
        private_key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def make_local_settings(bigquery_url: str) -> dict[str, str]:
    """Return every setting of the pipeline, many of them empty.

    `.env` does not override a variable that is set, even to nothing; one that is absent here would
    be taken from the user's `.env`.
    """
    return (
        dict.fromkeys(PipelineSettings.list_variables(), "")
        | {
            "PREFECT_GCP_CREDENTIALS_BLOCK": "sa-key",
            "DBT_TARGET": os.environ.get("DBT_TARGET", ""),
            "GCP_PROJECT_ID": PROJECT_ID,
            "DBT_BIGQUERY_API_ENDPOINT": bigquery_url,
            # bqemulator shares the cores of this machine with dbt: with more threads, the queries
            # would only wait for each other.
            "DBT_THREADS": "4",
        }
        | DATASETS
    )


def fill_bigquery(bigquery_url: str, credentials_info: dict[str, str]) -> None:
    """Create the datasets, and load the sample data unless it is there already."""
    from google.api_core.exceptions import NotFound

    from support.bigquery_access import make_bigquery_client
    from support.sample_data import load_sample_data

    settings = PipelineSettings.from_mapping(make_local_settings(bigquery_url))
    client = make_bigquery_client(make_credentials_block(credentials_info), settings)
    for dataset in DATASETS.values():
        client.create_dataset(dataset, exists_ok=True)
    try:
        # flights is loaded last (TABLES): if another table were looked at, a load that was
        # interrupted after it would count as complete.
        loaded = client.get_table(f"{settings.dataset_raw}.flights").num_rows
    except NotFound:
        loaded = 0
    if not loaded:
        load_sample_data(client, settings.dataset_raw)


def make_credentials_block(info: dict[str, str]) -> GcpCredentials:
    """Return the block that holds this key."""
    from prefect.types import SecretDict

    from bi_pipeline.bigquery.connection import import_credentials_block_class

    return import_credentials_block_class()(service_account_info=SecretDict(info))


@contextmanager
def use_prefect_server(environment: dict[str, str]) -> Iterator[None]:
    """Have Prefect, in this process, use the server of this environment."""
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_KEY,
        PREFECT_API_URL,
        temporary_settings,
    )

    settings = (PREFECT_API_URL, PREFECT_API_AUTH_STRING)
    with temporary_settings(
        {setting: environment[setting.name] for setting in settings if setting.name in environment},
        restore_defaults={PREFECT_API_KEY},
    ):
        yield


def save_block(environment: dict[str, str], credentials_info: dict[str, str]) -> None:
    """Save the credentials block on the local Prefect server."""
    with use_prefect_server(environment):
        make_credentials_block(credentials_info).save(
            environment["PREFECT_GCP_CREDENTIALS_BLOCK"], overwrite=True
        )

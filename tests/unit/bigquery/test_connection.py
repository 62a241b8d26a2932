"""The profile: what dbt needs, and nothing secret."""

import pytest
from prefect.types import SecretDict

from bi_pipeline.bigquery.connection import import_credentials_block_class, make_connection
from bi_pipeline.settings import PipelineSettings
from support.local_content import make_throwaway_key

DATASETS = {"DBT_BIGQUERY_DATASET_DEV": "p_dev", "DBT_BIGQUERY_DATASET_PROD": "p_prod"}


@pytest.fixture(scope="module")
def key():
    return make_throwaway_key()


def outputs(values, key):
    credentials = import_credentials_block_class()(service_account_info=SecretDict(key))
    settings = PipelineSettings.from_mapping(DATASETS | values)
    connection = make_connection(credentials, settings)
    profile = connection.profile.get_profile()[settings.profile_name]
    return profile["outputs"][profile["target"]], connection


def test_profile_refers_to_a_token_and_holds_nothing_of_the_key(key):
    output, connection = outputs({}, key)

    assert output == {
        "type": "bigquery",
        "method": "oauth-secrets",
        "token": "{{ env_var('DBT_ENV_SECRET_GCP_TOKEN') }}",
        "project": key["project_id"],
        "schema": "p_dev",
        "threads": 8,
        "job_retries": 2,
    }
    assert key["private_key"] not in repr(connection)


@pytest.mark.parametrize(
    ("variable", "value", "profile_key", "expected"),
    [
        ("DBT_TARGET", "prod", "schema", "p_prod"),
        ("GCP_PROJECT_ID", "un-projet", "project", "un-projet"),
        ("GCP_REGION", "EU", "location", "EU"),
        ("DBT_THREADS", "3", "threads", 3),
        ("DBT_BIGQUERY_MAXIMUM_BYTES_BILLED", "1000", "maximum_bytes_billed", 1000),
        ("DBT_BIGQUERY_JOB_TIMEOUT_SECONDS", "60", "job_execution_timeout_seconds", 60),
        ("DBT_BIGQUERY_API_ENDPOINT", "http://127.0.0.1:1/", "api_endpoint", "http://127.0.0.1:1"),
    ],
)
def test_setting_reaches_the_profile(variable, value, profile_key, expected, key):
    output, _ = outputs({variable: value}, key)

    assert output[profile_key] == expected


def test_project_of_the_key_is_the_default(key):
    output, _ = outputs({}, key)

    assert output["project"] == key["project_id"]


def test_client_that_a_run_never_uses_works_when_it_is_used(key):
    """If no test before imported google.cloud.storage, the block has a stand-in for it."""
    credentials = import_credentials_block_class()(
        service_account_info=SecretDict(key | {"universe_domain": "googleapis.com"})
    )

    assert credentials.get_cloud_storage_client(project="p").project == "p"

"""The profile: what dbt needs, and nothing secret."""

import pytest
from prefect.types import SecretDict
from prefect_gcp import GcpCredentials

from dbt_connection import build_connection, credentials_block_class
from local_bigquery import throwaway_key
from pipeline_settings import PipelineSettings

DATASETS = {"DBT_BIGQUERY_DATASET_DEV": "p_dev", "DBT_BIGQUERY_DATASET_PROD": "p_prod"}


def outputs(values, key):
    credentials = GcpCredentials(service_account_info=SecretDict(key))
    settings = PipelineSettings.from_mapping(DATASETS | values)
    connection = build_connection(credentials, settings)
    profile = connection.profile.get_profile()[settings.profile_name]
    return profile["outputs"][profile["target"]], connection


def test_profile_names_the_key_and_does_not_hold_it():
    key = throwaway_key()

    output, connection = outputs({}, key)

    assert output["method"] == "service-account-json"
    assert "PRIVATE KEY" not in str(output)
    assert key["private_key_id"] not in str(output)
    assert key["private_key"] in connection.secret_environment.values()
    assert key["private_key"] not in repr(connection)


def test_profile_is_the_same_after_a_key_rotation():
    first, _ = outputs({}, throwaway_key())
    second, _ = outputs({}, throwaway_key())

    assert first == second


@pytest.mark.parametrize(
    ("variable", "value", "profile_key", "expected"),
    [
        ("DBT_TARGET", "prod", "schema", "p_prod"),
        ("GCP_PROJECT_ID", "un-projet", "project", "un-projet"),
        ("GCP_REGION", "EU", "location", "EU"),
        ("DBT_THREADS", "8", "threads", 8),
        ("DBT_BIGQUERY_MAXIMUM_BYTES_BILLED", "1000", "maximum_bytes_billed", 1000),
        ("DBT_BIGQUERY_JOB_TIMEOUT_SECONDS", "60", "job_execution_timeout_seconds", 60),
        ("DBT_BIGQUERY_API_ENDPOINT", "http://127.0.0.1:1/", "api_endpoint", "http://127.0.0.1:1"),
    ],
)
def test_setting_reaches_the_profile(variable, value, profile_key, expected):
    output, _ = outputs({variable: value}, throwaway_key())

    assert output[profile_key] == expected


def test_project_of_the_key_is_the_default():
    key = throwaway_key()

    output, _ = outputs({}, key)

    assert output["project"] == key["project_id"]


def test_clients_of_the_block_work_where_vertex_ai_is_left_out():
    key = throwaway_key() | {"universe_domain": "googleapis.com"}
    credentials = credentials_block_class()(service_account_info=SecretDict(key))

    assert credentials.get_bigquery_client(project="p").project == "p"
    assert credentials.get_cloud_storage_client(project="p").project == "p"

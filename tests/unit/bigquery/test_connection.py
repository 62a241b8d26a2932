"""The profile: what dbt needs, and nothing secret."""

import json
import subprocess
import sys

import pytest
from prefect.types import SecretDict
from prefect_gcp import GcpCredentials

from bi_pipeline.bigquery.connection import make_connection
from bi_pipeline.settings import PROJECT_ROOT, PipelineSettings
from support.local_content import make_throwaway_key

DATASETS = {"DBT_BIGQUERY_DATASET_DEV": "p_dev", "DBT_BIGQUERY_DATASET_PROD": "p_prod"}


def outputs(values, key):
    credentials = GcpCredentials(service_account_info=SecretDict(key))
    settings = PipelineSettings.from_mapping(DATASETS | values)
    connection = make_connection(credentials, settings)
    profile = connection.profile.get_profile()[settings.profile_name]
    return profile["outputs"][profile["target"]], connection


def test_profile_refers_to_a_token_and_holds_nothing_of_the_key():
    key = make_throwaway_key()

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
def test_setting_reaches_the_profile(variable, value, profile_key, expected):
    output, _ = outputs({variable: value}, make_throwaway_key())

    assert output[profile_key] == expected


def test_project_of_the_key_is_the_default():
    key = make_throwaway_key()

    output, _ = outputs({}, key)

    assert output["project"] == key["project_id"]


def test_what_the_imports_leave_out_works_when_it_is_used(tmp_path):
    """In a process of its own: here, other tests may have imported the whole."""
    code = """
import json, sys, warnings
warnings.simplefilter("ignore")
from bi_pipeline.bigquery.connection import import_libraries
import_libraries()
assert not {"dbt.cli.main", "google.cloud.bigquery", "google.cloud.storage"} & set(sys.modules)
from prefect_gcp import GcpCredentials
block = GcpCredentials(service_account_info=json.load(sys.stdin))
print(block.get_bigquery_client(project="p").project)
print(block.get_cloud_storage_client(project="p").project)
from dbt.cli.main import dbtRunner
from prefect_dbt import PrefectDbtRunner
from prefect_dbt.cli import commands
print(isinstance(dbtRunner(), commands.dbtRunner), commands.NodeStatus.Fail)
"""
    key = make_throwaway_key() | {"universe_domain": "googleapis.com"}

    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(PROJECT_ROOT / "prefect"), "PREFECT_HOME": str(tmp_path)},
        input=json.dumps(key),
        capture_output=True,
        text=True,
    )

    assert run.stdout.split() == ["p", "p", "True", "fail"], run.stderr

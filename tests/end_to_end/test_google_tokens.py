"""The tokens that Google is asked for: one a run, and another one when it has expired."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.types import SecretDict
from prefect_gcp import GcpCredentials

from bi_pipeline.bigquery.connection import make_connection
from bi_pipeline.settings import PipelineSettings
from project import ONE_MODEL
from support.local_content import use_prefect_server
from token_endpoint import token_endpoint
from warm_dbt.tokens import read_token


@pytest.fixture
def project(make_project):
    """A project whose Google is not that of the local BigQuery, but Google's own."""
    project = make_project(
        ONE_MODEL | {"data-tests/none.sql": "select 1 from {{ ref('one') }} where id = 2"}
    )
    del project.environment["GOOGLE_CLOUD_UNIVERSE_DOMAIN"]
    return project


def save_block(key, local_environment):
    with use_prefect_server(local_environment):
        GcpCredentials(service_account_info=SecretDict(key)).save("google", overwrite=True)


@pytest.mark.parametrize(("seconds", "asked"), [(3600, [1]), (2, range(4, 40))])
def test_token_is_asked_for_once_a_run_unless_it_expires(
    seconds, asked, project, local_environment, key
):
    with token_endpoint(key, seconds) as (google_key, tokens):
        save_block(google_key, local_environment)

        run = project.run_pipeline(PREFECT_GCP_CREDENTIALS_BLOCK="google")

    assert run.returncode == 0, run.stderr
    assert len(tokens) in asked


@pytest.mark.parametrize("tool", ["prefect/pipeline.py", "utilities/load_sample_data.py"])
def test_revoked_key_is_named(tool, project, local_environment, key):
    with token_endpoint(key, refusal="Invalid JWT Signature.") as (google_key, _):
        save_block(google_key, local_environment)

        run = project.run(tool, PREFECT_GCP_CREDENTIALS_BLOCK="google")

    assert run.returncode == 2
    assert "révoquée" in run.stderr
    assert "Traceback" not in run.stderr


def test_adapter_that_makes_its_credentials_elsewhere_has_the_token_of_the_profile(project, key):
    """If `warm_dbt/process.py` finds nothing to replace, dbt itself reads our profile."""
    settings = PipelineSettings.from_mapping(project.environment)
    with token_endpoint(key) as (google_key, _):
        block = GcpCredentials(service_account_info=SecretDict(google_key))
        connection = make_connection(block, settings)
        token = read_token(connection.credentials)
    (project.root / "dbt" / "profiles.yml").write_text(json.dumps(connection.profile.get_profile()))

    run = subprocess.run(
        [str(Path(sys.executable).with_name("dbt")), "run"],
        cwd=project.root / "dbt",
        env=project.environment
        | {"DBT_ENV_SECRET_GCP_TOKEN": token, "DBT_PROFILE": settings.profile_name},
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stdout

"""How the pipeline and its tools are known by Google, on a Google of this machine."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.auth import iam
from google.oauth2 import credentials as oauth2

import create_gcp_block
import doctor
from bi_pipeline.bigquery.connection import make_connection
from bi_pipeline.settings import PipelineSettings
from project import ONE_MODEL, in_environment, run_main
from support.bigquery_access import connect_to_bigquery
from support.local_content import make_credentials_block
from token_endpoint import token_endpoint
from warm_dbt.tokens import read_token

ACCOUNT = "pipeline-dbt@projet-local.iam.gserviceaccount.com"

# google-auth has no setting for the addresses of IAM and OAuth: if Python's start did not replace
# them, it would ask Google itself.
SITECUSTOMIZE = """
import os
from google.auth import iam
from google.oauth2 import credentials
iam._IAM_ENDPOINT = os.environ["TOKEN_URI"] + "/{}"
credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT = os.environ["TOKEN_URI"]
"""


def service_account(key, _folder):
    return key


def authorized_user(_key, _folder):
    return {
        "type": "authorized_user",
        "client_id": "c",
        "client_secret": "secret-of-gcloud",
        "refresh_token": "secret-of-a-person",
    }


def external_account(key, folder):
    (folder / "identity").write_text("secret-of-github")
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": key["token_uri"],
        "credential_source": {"file": str(folder / "identity")},
    }


@pytest.fixture
def google(tmp_path, key, monkeypatch):
    """Return a function that has a command in an environment find these default credentials.

    It yields the environment, whose block has no key, and the tokens that were given so far.
    """

    @contextmanager
    def start(credentials, environment, **answers):
        adc = tmp_path / "adc.json"
        (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
        with token_endpoint(key, **answers) as (google_key, tokens):
            adc.write_text(json.dumps(credentials(google_key, tmp_path)))
            environment = environment | {
                "GOOGLE_APPLICATION_CREDENTIALS": str(adc),
                "PYTHONPATH": str(tmp_path),
                "TOKEN_URI": google_key["token_uri"],
                "PREFECT_GCP_CREDENTIALS_BLOCK": "adc",
            }
            del environment["GOOGLE_CLOUD_UNIVERSE_DOMAIN"]
            # For the commands that run in this process, which has started without sitecustomize.
            monkeypatch.setattr(iam, "_IAM_ENDPOINT", google_key["token_uri"] + "/{}")
            monkeypatch.setattr(oauth2, "_GOOGLE_OAUTH2_TOKEN_ENDPOINT", google_key["token_uri"])
            with in_environment(environment):
                assert create_gcp_block.main(["--adc", "--block-name", "adc"]) == 0
            yield environment, tokens

    return start


def list_written(run, *folders):
    """Return all that a run has written: its output, and the files of these folders."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path.read_bytes().decode(errors="replace") for path in files] + [run.stdout, run.stderr]


@pytest.mark.parametrize("credentials", [service_account, authorized_user, external_account])
def test_block_without_a_key_takes_the_default_credentials(credentials, google, local_environment):
    with (
        google(credentials, local_environment) as (environment, tokens),
        in_environment(environment),
    ):
        client, _ = connect_to_bigquery()
        rows = list(client.query_and_wait("select 1"))

    assert len(rows) == len(tokens) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("credentials", "variables", "lifetime", "asked"),
    [
        # One token for the person, one for the account.
        (authorized_user, {"DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT": ACCOUNT}, 3600, [2]),
        # If each process of dbt kept its first token, five would be asked for.
        (external_account, {}, 2, range(8, 40)),
    ],
    ids=["person who acts as an account", "federation whose tokens expire"],
)
def test_run_asks_for_a_token_once_unless_it_expires_and_leaves_no_secret(
    credentials, variables, lifetime, asked, google, make_project
):
    project = make_project(
        ONE_MODEL | {"data-tests/none.sql": "select 1 from {{ ref('one') }} where id = 2"}
    )

    with google(credentials, project.environment | variables, lifetime=lifetime) as (
        project.environment,
        tokens,
    ):
        run = project.run_pipeline()

    assert run.returncode == 0, run.stderr
    assert len(tokens) in asked
    written = list_written(run, project.root, Path(project.environment["PREFECT_HOME"]))
    assert not [secret for text in written for secret in [*tokens, "secret-of-"] if secret in text]


EXPIRED = (
    authorized_user,
    {},
    {"refusal": "Token has been expired or revoked."},
    ["ont expiré", "gcloud auth application-default login"],
)
REVOKED = (service_account, {}, {"refusal": "Invalid JWT Signature."}, ["révoquée"])
MAY_NOT_ACT = (
    service_account,
    {"DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT": ACCOUNT},
    {
        "refusal": "Permission 'iam.serviceAccounts.getAccessToken' denied",
        "refused": "/token/",
    },
    ["DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT", "impersonators"],
)


@pytest.mark.parametrize(
    ("credentials", "variables", "refusal", "words"),
    [EXPIRED, REVOKED, MAY_NOT_ACT],
    ids=["expired", "revoked", "may not act as the account"],
)
def test_refusal_is_named_by_the_tools_with_the_command_to_type(
    credentials, variables, refusal, words, google, local_environment, capsys
):
    with google(credentials, local_environment | variables, **refusal) as (environment, _):
        check = run_main(
            create_gcp_block.main, "--check", "--block-name", "adc", environment=environment
        )
        capsys.readouterr()
        diagnosis = doctor.Diagnosis()
        with in_environment(environment):
            client = doctor.check_block(diagnosis, doctor.check_settings(diagnosis))

    assert (client, diagnosis.failed, check.returncode) == (None, True, 2)
    for said in (capsys.readouterr().out, check.stderr):
        assert all(word in said for word in words), said


@pytest.mark.slow
def test_refusal_is_named_by_the_pipeline_with_the_command_to_type(google, make_project):
    credentials, variables, refusal, words = MAY_NOT_ACT
    project = make_project(ONE_MODEL)

    with google(credentials, project.environment | variables, **refusal) as (
        project.environment,
        _,
    ):
        run = project.run_pipeline()

    assert run.returncode == 2
    assert all(word in run.stderr for word in words), run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_adapter_that_makes_its_credentials_elsewhere_has_the_token_of_the_profile(
    make_project, key
):
    """If `warm_dbt/process.py` finds nothing to replace, dbt itself reads our profile."""
    project = make_project(ONE_MODEL)
    del project.environment["GOOGLE_CLOUD_UNIVERSE_DOMAIN"]
    settings = PipelineSettings.from_mapping(project.environment)
    with token_endpoint(key) as (google_key, _):
        connection = make_connection(make_credentials_block(google_key), settings)
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

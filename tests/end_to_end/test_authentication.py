"""The ways to be known by Google without a key in the block, on a Google of this machine."""

import json
from pathlib import Path

import pytest

import create_gcp_block
from project import ONE_MODEL, in_environment
from token_endpoint import token_endpoint

ACCOUNT = "pipeline-dbt@projet-local.iam.gserviceaccount.com"

# google-auth has no setting for these two addresses.
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
    return {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}


def external_account(key, folder):
    (folder / "identity").write_text("of GitHub, for example")
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": key["token_uri"],
        "credential_source": {"file": str(folder / "identity")},
    }


@pytest.fixture
def run(make_project, tmp_path, local_environment):
    """Return a function that runs the pipeline with these default credentials and no key."""

    def run(credentials, refusal="", refused="/token", **variables):
        project = make_project(ONE_MODEL)
        (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
        adc = tmp_path / "adc.json"
        with token_endpoint(refusal=refusal, refused=refused) as (key, tokens):
            adc.write_text(json.dumps(credentials(key, tmp_path)))
            del project.environment["GOOGLE_CLOUD_UNIVERSE_DOMAIN"]
            project.environment |= {
                "GOOGLE_APPLICATION_CREDENTIALS": str(adc),
                "PYTHONPATH": str(tmp_path),
                "TOKEN_URI": key["token_uri"],
                "PREFECT_GCP_CREDENTIALS_BLOCK": "adc",
            }
            with in_environment(project.environment):
                assert create_gcp_block.main(["--adc", "--block-name", "adc"]) == 0
            process = project.run_pipeline(**variables)
        return process, project, tokens

    return run


@pytest.mark.parametrize("credentials", [service_account, authorized_user, external_account])
def test_block_without_a_key_takes_the_default_credentials(credentials, run):
    process, _, tokens = run(credentials)

    assert process.returncode == 0, process.stderr
    assert len(tokens) == 1


def test_account_is_acted_as_on_top_of_the_default_credentials(run):
    process, _, tokens = run(authorized_user, DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT=ACCOUNT)

    assert process.returncode == 0, process.stderr
    # One for the person, one for the account.
    assert len(tokens) == 2


def test_no_secret_of_the_default_credentials_is_on_disk_or_in_a_log(run, local_environment):
    process, project, _ = run(authorized_user)

    folders = (project.root.parent, Path(local_environment["PREFECT_HOME"]))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    texts = [path.read_bytes().decode(errors="replace") for path in files]
    assert not [text for text in [process.stdout, process.stderr, *texts] if "token-0" in text]


@pytest.mark.parametrize(
    ("credentials", "variables", "words"),
    [
        (
            authorized_user,
            {"refusal": "Token has been expired or revoked."},
            ["ont expiré", "gcloud auth application-default login"],
        ),
        (
            service_account,
            {
                "refusal": "Permission 'iam.serviceAccounts.getAccessToken' denied",
                "refused": "/token/",
                "DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT": ACCOUNT,
            },
            ["DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT", "impersonators"],
        ),
    ],
    ids=["expired", "may not act as the account"],
)
def test_refusal_is_named_with_the_command_to_type(credentials, variables, words, run):
    process, _, _ = run(credentials, **variables)

    assert process.returncode == 2
    assert all(word in process.stderr for word in words), process.stderr
    assert "Traceback" not in process.stderr

"""The ways to be known by Google without a key in the block, on a Google of this machine."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import create_gcp_block
from project import ONE_MODEL, in_environment
from token_endpoint import token_endpoint

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
def run(make_project, tmp_path, key):
    """Return a function that runs tools with these default credentials, and no key in the block."""

    def run(credentials, *tools, refusal="", refused="/token", **variables):
        project = make_project(ONE_MODEL)
        adc = tmp_path / "adc.json"
        (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
        with token_endpoint(key, refusal=refusal, refused=refused) as (google_key, tokens):
            adc.write_text(json.dumps(credentials(google_key, tmp_path)))
            del project.environment["GOOGLE_CLOUD_UNIVERSE_DOMAIN"]
            project.environment |= variables | {
                "GOOGLE_APPLICATION_CREDENTIALS": str(adc),
                "PYTHONPATH": str(tmp_path),
                "TOKEN_URI": google_key["token_uri"],
                "PREFECT_GCP_CREDENTIALS_BLOCK": "adc",
            }
            with in_environment(project.environment):
                assert create_gcp_block.main(["--adc", "--block-name", "adc"]) == 0
            processes = [project.run(*tool.split()) for tool in tools]
        return SimpleNamespace(
            processes=processes, root=project.root, tokens=tokens, key=key["private_key"]
        )

    return run


@pytest.fixture
def written(local_environment):
    """Return a function that gives all that a run has written: output, project, Prefect's base."""

    def written(run):
        folders = (run.root, Path(local_environment["PREFECT_HOME"]))
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        texts = [path.read_bytes().decode(errors="replace") for path in files]
        return texts + [process.stdout + process.stderr for process in run.processes]

    return written


@pytest.mark.parametrize(
    ("credentials", "variables", "asked"),
    [
        (service_account, {}, 1),
        (authorized_user, {}, 1),
        (external_account, {}, 1),
        # One token for the person, one for the account.
        (authorized_user, {"DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT": ACCOUNT}, 2),
    ],
    ids=["key in a file", "person", "federation", "person who acts as an account"],
)
def test_block_without_a_key_takes_the_default_credentials_and_leaves_no_secret(
    credentials, variables, asked, run, written
):
    done = run(credentials, "prefect/pipeline.py", **variables)

    (process,) = done.processes
    assert process.returncode == 0, process.stderr
    assert len(done.tokens) == asked
    secrets = [*done.tokens, "secret-of-", done.key.splitlines()[1]]
    assert not [secret for text in written(done) for secret in secrets if secret in text]


@pytest.mark.slow
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
    check = "utilities/create_gcp_block.py --check --block-name adc"
    done = run(credentials, "prefect/pipeline.py", "utilities/doctor.py", check, **variables)

    pipeline, doctor, check = done.processes
    assert (pipeline.returncode, doctor.returncode, check.returncode) == (2, 1, 2)
    for said in (pipeline.stderr, doctor.stdout, check.stderr):
        assert all(word in said for word in words), said
        assert "Traceback" not in said

"""What the libraries raise, and what the user reads of it: the exit code and the remedy."""

import subprocess
import sys

import httpx
import pytest
import requests
from google.api_core.exceptions import Forbidden, NotFound, ServiceUnavailable
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from pipeline_errors import ConfigurationError, InfrastructureError, explain
from pipeline_settings import PROJECT_ROOT

QUOTA = (
    "Your application is authenticating by using local Application Default Credentials. The "
    "bigquery.googleapis.com API requires a quota project, which is not set by default."
)
ACTING = "Unable to acquire impersonated credentials"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (DefaultCredentialsError("none"), ConfigurationError, "application-default login"),
        (RefreshError("invalid_grant: Invalid JWT Signature."), ConfigurationError, "révoquée"),
        (RefreshError("invalid_grant: account not found"), ConfigurationError, "révoquée"),
        (RefreshError("invalid_grant: Bad Request"), ConfigurationError, "default login"),
        (RefreshError("Reauthentication is needed."), ConfigurationError, "default login"),
        (RefreshError(ACTING, "403 denied"), ConfigurationError, "impersonators"),
        (Forbidden(QUOTA), ConfigurationError, "set-quota-project"),
        (Forbidden("Access Denied"), ConfigurationError, "make infra"),
        (NotFound("Dataset p:d"), ConfigurationError, "make infra"),
        (TransportError("no route"), InfrastructureError, "vérifiez le réseau"),
        (ServiceUnavailable("down"), InfrastructureError, "vérifiez le réseau"),
        (requests.ConnectionError("reset"), InfrastructureError, "vérifiez le réseau"),
        (httpx.ConnectError("refused"), InfrastructureError, "API Prefect injoignable"),
        (PermissionError(13, "Permission denied", "/x"), InfrastructureError, "/x : accès"),
        (OSError(28, "No space left on device", "/x"), InfrastructureError, "place libre"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_error_of_a_library_is_put_in_words_that_help(error, kind, words):
    known = explain(error)

    assert type(known) is kind
    assert words in str(known)


def test_defect_of_a_tool_without_prefect_makes_no_prefect_folder(tmp_path):
    code = "from pipeline_errors import explain; assert explain(KeyError()) is None"
    folder = PROJECT_ROOT / "prefect"

    subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={"HOME": str(tmp_path)}, check=True
    )

    assert list(tmp_path.iterdir()) == []


def test_defect_of_the_program_is_not_explained_away():
    assert explain(KeyError("target")) is None
    assert explain(FileNotFoundError(2, "No such file or directory", "x")) is None

"""The errors that libraries raise, and what the user gets: the exit code and the remedy."""

import errno
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import google.auth
import httpx
import pytest
import requests
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, RefreshError
from google.auth.transport.requests import Request
from google.cloud import bigquery, storage
from google.oauth2.service_account import Credentials
from prefect import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from bi_pipeline.command_line import say_errors
from bi_pipeline.dbt_runs.lock import try_lock, wait_for_lock
from bi_pipeline.errors import ConfigurationError, InfrastructureError
from bi_pipeline.explanations import explain, explain_message, explain_refusal
from bi_pipeline.settings import PROJECT_ROOT, PipelineSettings
from support.local_content import make_throwaway_key

# dbt-bigquery 1.12.1 puts BigQuery's message in a Database Error, google-api-core before it the
# status and the address. The texts are those of Google's page on quota errors.
CUSTOM_QUOTA = (
    "Custom quota exceeded: Your usage exceeded the custom quota for QueryUsagePerDay, which is "
    "set by your administrator. For more information, see "
    "https://cloud.google.com/bigquery/cost-controls"
)
FREE_QUOTA = (
    "Quota exceeded: Your project exceeded quota for free query bytes scanned. For more "
    "information, see https://cloud.google.com/bigquery/docs/troubleshoot-quotas"
)
TABLE_QUOTA = (
    "Quota exceeded: Your table exceeded quota for imports or query appends per table. For more "
    "information, see https://cloud.google.com/bigquery/docs/troubleshoot-quotas"
)
RATE = "Exceeded rate limits: too many concurrent queries for this project_and_region. For more"
UNRESOLVED = (
    "HTTPSConnectionPool(host='bigquery.googleapis.com', port=443): Max retries exceeded with url: "
    "/bigquery/v2 (Caused by NameResolutionError(\"HTTPSConnection(host='bigquery.googleapis.com', "
    "port=443): Failed to resolve 'bigquery.googleapis.com' ([Errno -2] Name or service not "
    'known)"))'
)
QUOTA = (
    "Your application is authenticating by using local Application Default Credentials. The "
    "bigquery.googleapis.com API requires a quota project, which is not set by default."
)
ACTING = "Unable to acquire impersonated credentials"
NOBODY = "http://127.0.0.1:1"
UNKNOWN = "https://nobody.invalid/api"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (DefaultCredentialsError("none"), "application-default login"),
        (RefreshError("invalid_grant: Invalid JWT Signature."), "révoquée"),
        (RefreshError("invalid_grant: account not found"), "révoquée"),
        (RefreshError("invalid_grant: Bad Request"), "default login"),
        (RefreshError("Reauthentication is needed."), "default login"),
        (RefreshError(ACTING, "403 denied"), "impersonators"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusal_of_the_credentials_says_what_to_do(error, words):
    known = explain(error)

    assert type(known) is ConfigurationError
    assert words in str(known)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (CUSTOM_QUOTA, "administrateur épuisé (QueryUsagePerDay) : relevez-le"),
        (FREE_QUOTA, "quota gratuit de BigQuery épuisé (1 Tio par mois) : activez la facturation"),
        (TABLE_QUOTA, "quota BigQuery épuisé (imports or query appends per table) : attendez"),
        ("403 GET http://x: x; reason: quotaExceeded", "quota BigQuery épuisé : attendez"),
        (RATE, "atteinte (too many concurrent queries for this project_and_region) : baissez"),
        ("Job exceeded rate limits: Your table exceeded quota", "baissez DBT_THREADS"),
        (UNRESOLVED, "bigquery.googleapis.com est introuvable : réseau, DNS ou proxy"),
    ],
    ids=lambda value: value[:30],
)
def test_message_of_bigquery_gets_its_meaning_and_the_remedy(message, said):
    assert said in explain_message(message)


def test_message_that_nobody_knows_keeps_its_words():
    assert explain_message("Unrecognized name: nope at [1:8]") == ""


def test_refused_key_of_prod_is_named_with_its_block_and_the_prefect_of_the_deployment():
    settings = PipelineSettings.from_mapping(
        {
            "DBT_BIGQUERY_DATASET_DEV": "dev",
            "DBT_BIGQUERY_DATASET_PROD": "prod",
            "DBT_TARGET": "prod",
            "PREFECT_GCP_CREDENTIALS_BLOCK": "nightly",
        }
    )

    said = explain_refusal("Invalid JWT Signature.", settings, "https://prefect.example.org/api")

    assert "du block « nightly », cible prod" in said
    assert "--block-name nightly --key-file .secrets/sa_key_prod.json`" in said
    assert "https://prefect.example.org/api" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "ce fichier n'existe pas"),
        ("{", "ce fichier n'est pas du JSON"),
        ('{"type": "x"}', "ce fichier n'a pas d'identifiants Google"),
        ('{"type": "service_account"}', "ce fichier n'a pas d'identifiants valables"),
    ],
)
def test_unusable_credentials_of_the_environment_are_named_with_their_file(
    content, words, tmp_path, monkeypatch
):
    path = tmp_path / "adc.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))

    known = explain(error_of(google.auth.default))

    assert type(known) is ConfigurationError
    assert f"GOOGLE_APPLICATION_CREDENTIALS est inutilisable ({words}" in str(known)
    assert str(path) in str(known)


@pytest.fixture(scope="module")
def api():
    """A server whose answer is what is asked of it: `/403/…` is that status. Yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, status, *rest = self.path.split("/")
            job = {
                "jobReference": {"projectId": "p", "jobId": "j", "location": "US"},
                "configuration": {"load": {}},
                "status": {
                    "state": "DONE",
                    "errorResult": {"reason": "accessDenied", "message": "Access Denied: a job"},
                },
            }
            error = {"message": QUOTA if "quota" in rest else "the reason"}
            body = json.dumps(job if status == "200" else {"error": error}).encode()
            self.send_response(int(status))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask_prefect(url):
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        client.request("GET", "/variables/count")


def bigquery_client(url):
    return bigquery.Client("p", AnonymousCredentials(), client_options={"api_endpoint": url})


def ask_bigquery(url):
    bigquery_client(url).get_dataset("d", retry=None)


def ask_bigquery_in_vain(url):
    bigquery_client(url).get_dataset("d", retry=Retry(timeout=0.01))


def wait_for_a_job(url):
    bigquery_client(url).get_job("j").result()


def ask_for_a_token(url):
    key = make_throwaway_key() | {"token_uri": url, "universe_domain": "googleapis.com"}
    Credentials.from_service_account_info(key, scopes=["x"]).refresh(Request())


def ask_storage(url):
    client = storage.Client("p", AnonymousCredentials(), client_options={"api_endpoint": url})
    client.get_bucket("b", retry=None)


def ask_by_httpx(url):
    httpx.get(url).raise_for_status()


def ask_by_requests(url):
    requests.get(url, timeout=5).raise_for_status()


def error_of(call, *arguments):
    """Return the exception that a call raises."""
    with pytest.raises(Exception) as raised:
        call(*arguments)
    return raised.value


@pytest.mark.parametrize(
    ("call", "address", "kind", "words"),
    [
        (ask_prefect, NOBODY, InfrastructureError, "API Prefect injoignable ({url})"),
        (ask_prefect, "{api}/401/api", InfrastructureError, "API Prefect ({url}) : accès refusé"),
        (ask_prefect, "127.0.0.1:1/api", ConfigurationError, "PREFECT_API_URL ({url}) n'est pas"),
        (
            ask_prefect,
            "{api}/404",
            ConfigurationError,
            "PREFECT_API_URL ({url}) : il y manque /api",
        ),
        (ask_prefect, UNKNOWN, InfrastructureError, "nobody.invalid est introuvable : réseau, DNS"),
        (
            ask_bigquery,
            UNKNOWN,
            InfrastructureError,
            "nobody.invalid est introuvable : réseau, DNS",
        ),
        (ask_for_a_token, UNKNOWN, InfrastructureError, "nobody.invalid est introuvable"),
        (ask_prefect, "{api}/500/api", InfrastructureError, "API Prefect ({url}) : réponse 500"),
        (ask_bigquery, NOBODY, InfrastructureError, "BigQuery injoignable ou en panne (HTTP"),
        (ask_bigquery, "{api}/503", InfrastructureError, "BigQuery injoignable ou en panne (GET"),
        (ask_bigquery_in_vain, "{api}/503", InfrastructureError, "en panne (Timeout of 0.0s"),
        (ask_bigquery, "{api}/403", ConfigurationError, "BigQuery refuse : GET"),
        (ask_bigquery, "{api}/404", ConfigurationError, "BigQuery refuse : GET"),
        (ask_bigquery, "{api}/403/quota", ConfigurationError, "set-quota-project"),
        (wait_for_a_job, "{api}/200", ConfigurationError, "BigQuery refuse : Access Denied: a job"),
        (ask_for_a_token, NOBODY, InfrastructureError, "BigQuery injoignable ou en panne (HTTP"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_error_of_a_library_that_asked_prefect_or_bigquery_is_put_in_words_that_help(
    call, address, kind, words, api, monkeypatch
):
    url = address.format(api=api)
    monkeypatch.setenv("DBT_BIGQUERY_API_ENDPOINT", url)
    error = error_of(call, url)

    with temporary_settings({PREFECT_API_URL: url}):
        known = explain(error)

    assert type(known) is kind, repr(error)
    assert words.format(url=url) in str(known)


@pytest.mark.parametrize("status", ["403", "500", "refused"])
@pytest.mark.parametrize("call", [ask_by_httpx, ask_by_requests, ask_storage, ask_bigquery])
def test_error_of_another_api_keeps_its_own_words(call, status, api, monkeypatch):
    """A task of the team may call it: its errors are neither Prefect's nor BigQuery's."""
    monkeypatch.setenv("DBT_BIGQUERY_API_ENDPOINT", f"{api}/bigquery")
    error = error_of(call, NOBODY if status == "refused" else f"{api}/{status}")

    with temporary_settings({PREFECT_API_URL: f"{api}/api"}):
        assert explain(error) is None, repr(error)


def test_error_of_httpx_that_names_no_request_keeps_its_own_words():
    assert explain(httpx.ConnectError("refused")) is None


@pytest.mark.parametrize(
    ("variable", "proxy"),
    [("https_proxy", "http://alice:pass%40word@127.0.0.1:1"), ("ALL_PROXY", "127.0.0.1:1")],
)
@pytest.mark.parametrize("call", [ask_prefect, ask_for_a_token])
def test_proxy_that_does_not_answer_is_named_without_its_password(
    call, variable, proxy, monkeypatch
):
    monkeypatch.setenv(variable, proxy)
    url = "https://example.org/api"
    error = error_of(call, url)

    with temporary_settings({PREFECT_API_URL: url}):
        known = str(explain(error))

    assert "127.0.0.1:1 (variable " + variable + ")" in known
    assert "alice" not in known
    assert "word@" not in known


@pytest.mark.parametrize("url", ["socks5://alice:password@127.0.0.1:1", "socks://127.0.0.1:1"])
@pytest.mark.parametrize("call", [ask_prefect, ask_for_a_token])
def test_proxy_that_prefect_cannot_use_is_named_with_the_remedy(call, url, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", url)
    error = error_of(call, "https://example.org/api")

    known = explain(error)

    assert type(known) is ConfigurationError, repr(error)
    assert "127.0.0.1:1) : donnez-en un en http://" in str(known)
    assert "`unset ALL_PROXY`" in str(known)
    assert "password" not in str(known)


def write_on_a_full_disk():
    Path("/dev/full").write_text("x")


def test_full_disk_is_said_by_a_tool_without_a_traceback(capsys):
    """A write, unlike the opening of a file, raises without the name of the file."""
    error = error_of(write_on_a_full_disk)
    tool = say_errors(lambda _: write_on_a_full_disk() or 0)

    assert (error.errno, error.filename) == (errno.ENOSPC, None)
    assert tool([]) == 3
    assert "(No space left on device) : libérez de la place" in capsys.readouterr().err


def test_file_that_cannot_be_opened_is_named(tmp_path):
    refused = PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    known = explain(refused)

    assert type(known) is InfrastructureError
    assert f"{tmp_path} : accès impossible (Permission denied)" in str(known)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("lock", [try_lock, wait_for_lock])
def test_volume_without_locks_is_named_with_the_remedy(lock, number, tmp_path, monkeypatch):
    """No such volume is at hand: the call to the kernel alone is replaced."""

    def refuse(*_: object) -> None:
        raise OSError(number, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with (tmp_path / ".lock").open("w") as file:
        known = error_of(lock, file)

    assert type(known) is InfrastructureError
    assert str(tmp_path / ".lock") in str(known)
    assert "disque local" in str(known)


def test_defect_of_a_tool_without_prefect_makes_no_prefect_folder(tmp_path):
    code = "from bi_pipeline.explanations import explain; assert explain(KeyError()) is None"
    folder = PROJECT_ROOT / "prefect"

    subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={"HOME": str(tmp_path)}, check=True
    )

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "defect",
    [
        KeyError("target"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        # os.kill raises this, without a file: the rights of no file would remedy it.
        PermissionError(errno.EPERM, "Operation not permitted"),
    ],
)
def test_defect_of_the_program_is_not_explained_away(defect):
    assert explain(defect) is None

"""What a start costs, without timing it: what is imported when, and who is called."""

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest
from project import ONE_MODEL

from pipeline_settings import PROJECT_ROOT

IMPORT = "import sys; sys.path.insert(0, 'prefect'); import pipeline"
LIBRARIES = f"{IMPORT}; pipeline.import_libraries()"
SERVER = f"{IMPORT}; pipeline.ensure_prefect_server(while_it_boots=list)"


# Whatever the shell of the user says.
NO_SERVER = {**os.environ, "PREFECT_API_URL": ""}


def modules_after(code):
    """Return the modules that a new process has imported after running the code."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{code}; print(*sys.modules)"],
        cwd=PROJECT_ROOT,
        env=NO_SERVER,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("code", "left_out"),
    [
        (IMPORT, {"dbt", "prefect.server.api.server", "prefect_dbt", "prefect_gcp"}),
        (
            LIBRARIES,
            {"dbt.adapters.bigquery", "google.cloud.aiplatform", "prefect.server.api.server"},
        ),
        (SERVER, {"prefect.server.api.server", "sqlalchemy"}),
    ],
    ids=["import", "libraries", "temporary server"],
)
def test_what_nothing_needs_is_not_imported(code, left_out):
    assert modules_after(code) & left_out == set()


def test_temporary_server_ends_with_its_process_even_killed():
    show_and_die = "import os; print(os.environ['PREFECT_API_URL'], flush=True); os.abort()"
    run = subprocess.run(
        [sys.executable, "-c", f"{SERVER}; {show_and_die}"],
        cwd=PROJECT_ROOT,
        env=NO_SERVER,
        stdout=subprocess.PIPE,
        text=True,
    )
    api_url = run.stdout.strip()

    assert api_url.startswith("http://127.0.0.1:")
    assert run.returncode == -signal.SIGABRT
    deadline = time.monotonic() + 10
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        while time.monotonic() < deadline:
            httpx.get(f"{api_url}/health", trust_env=False)
            time.sleep(0.1)


def test_temporary_server_refuses_who_has_not_its_secret(tmp_path):
    """What the user's shell says of another server does not weaken it."""
    ask = (
        "from prefect import get_client; get_client(sync_client=True).read_variables();"
        "import project, os; url, theirs = os.environ['PREFECT_API_URL'], 'Basic dGhlaXJz';"
        "answer = project.read_blocks(url, Origin='https://example.com', Authorization=theirs);"
        "print(answer.status_code, 'access-control-allow-origin' in answer.headers)"
    )
    left = {"PREFECT_API_AUTH_STRING": "theirs", "PREFECT_SERVER_API_AUTH_STRING": "theirs"}

    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{SERVER}; {ask}"],
        cwd=PROJECT_ROOT,
        env=NO_SERVER | left | {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": "tests:utilities"},
        capture_output=True,
        text=True,
    )

    assert run.stdout.strip() == "401 False", run.stderr


@pytest.mark.parametrize("server", ["running", "temporary"])
def test_run_reaches_nothing_outside_the_machine(
    server, make_project, outside, without_prefect_server
):
    url, requests = outside
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), url)
    local = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    if server == "temporary":
        local |= without_prefect_server

    run = make_project(ONE_MODEL).run_pipeline(**proxies, **local)

    assert run.returncode == 0, run.stderr
    assert requests == []

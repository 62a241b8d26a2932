"""The cost of a start, without timing it: the modules that it imports, and whom it calls."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

import pipeline
from bi_pipeline.settings import PROJECT_ROOT
from project import ONE_MODEL, copy_prefect_database, read_blocks

# Starts as the pipeline does, prints what is imported, and aborts, without atexit, once its input
# ends.
START = """
import os, sys
sys.path.insert(0, "prefect")
import pipeline, prefect
print(*sys.modules)
pipeline.ensure_prefect_server(while_it_boots=pipeline.import_libraries)
print(*sys.modules)
prefect.get_client(sync_client=True).read_variables()
print(os.environ["PREFECT_API_URL"], flush=True)
sys.stdin.read()
os.abort()
"""

# A shell that names no server, but has the secrets of another one: if the temporary server took
# them, all who know them could read its blocks.
SHELL = {
    "PREFECT_API_URL": "",
    "PREFECT_API_AUTH_STRING": "theirs",
    "PREFECT_SERVER_API_AUTH_STRING": "theirs",
}


@dataclass
class Start:
    """The imports and answers of a start of the pipeline with a temporary server."""

    imported: set[str]
    imported_with_server: set[str]
    api_url: str
    answer_to_a_stranger: httpx.Response
    exit_code: int


@pytest.fixture(scope="module")
def start(tmp_path_factory, local_environment):
    """A start whose process was killed."""
    home = tmp_path_factory.mktemp("start") / "prefect-home"
    copy_prefect_database(Path(local_environment["PREFECT_HOME"]), home)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", START],
        cwd=PROJECT_ROOT,
        env=os.environ | SHELL | {"PREFECT_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        imported, with_server, api_url = (process.stdout.readline() for _ in range(3))
        stranger = {"Origin": "https://example.com", "Authorization": "Basic dGhlaXJz"}
        answer = read_blocks(api_url.strip(), **stranger)
    return Start(
        set(imported.split()),
        set(with_server.split()),
        api_url.strip(),
        answer,
        process.returncode,
    )


@pytest.mark.slow
def test_import_brings_nothing_that_a_refused_command_does_without(start):
    assert "pipeline" in start.imported
    left_out = {"dbt", "prefect.server.api.server", "prefect_dbt", "prefect_gcp"}
    assert start.imported & left_out == set()


@pytest.mark.slow
def test_libraries_and_temporary_server_bring_nothing_that_nothing_needs(start):
    assert "prefect_gcp" in start.imported_with_server
    left_out = {
        *("dbt.adapters.bigquery", "google.cloud.aiplatform"),
        *("prefect.server.api.server", "sqlalchemy", "pandas", "pyarrow"),
    }
    assert start.imported_with_server & left_out == set()


@pytest.mark.slow
def test_temporary_server_ends_with_its_process_even_killed(start):
    assert start.exit_code == -signal.SIGABRT
    assert start.api_url.startswith("http://127.0.0.1:")
    deadline = time.monotonic() + 10
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        while time.monotonic() < deadline:
            httpx.get(f"{start.api_url}/health", trust_env=False)
            time.sleep(0.1)


@pytest.mark.slow
def test_temporary_server_refuses_who_has_not_its_secret(start):
    """The secrets of another server, in the user's shell, do not weaken it."""
    assert start.answer_to_a_stranger.status_code == 401
    assert "access-control-allow-origin" not in start.answer_to_a_stranger.headers


def test_refused_command_line_shows_nothing_and_runs_nothing(capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "ensure_prefect_server", pytest.fail)

    with pytest.raises(SystemExit, match=r"^2$"):
        pipeline.main(["--target", "production"])

    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].startswith("pipeline.py : --target")


def test_ctrl_c_while_python_imports_is_said_without_a_traceback(make_project):
    project = make_project(ONE_MODEL)
    command = [sys.executable, "prefect/pipeline.py"]

    process = subprocess.Popen(
        command, cwd=project.root, env=project.environment, stderr=subprocess.PIPE, text=True
    )
    # The pipeline starts dbt's server just before it imports Prefect: once that child is there, the
    # signal comes during the import.
    while not psutil.Process(process.pid).children():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=30)[1] == "Interrompu.\n"
    assert process.returncode == 130

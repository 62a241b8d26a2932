"""Fixtures: one local BigQuery and Prefect for the session, a copy of the project a test."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.cloud.bigquery import Client

from bi_pipeline.settings import REHEARSAL_DIR
from project import Project, connect, copy_prefect_database, copy_project, saved_key
from support.local_stack import run_local_servers
from warm_dbt import DbtServer

# By default, a run of a deployment that waits for another one asks again after half a minute: the
# tests of deployments would take minutes.
PREFECT_PROFILE = """
active = "tests"
[profiles.tests]
PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS = "1"
"""


@pytest.fixture(scope="session")
def local_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of commands that run against the local servers."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "prefect").mkdir()
    (folder / "prefect" / "profiles.toml").write_text(PREFECT_PROFILE)
    # The first one of this clone makes the folder that copy_project copies.
    rehearsing = None if (REHEARSAL_DIR / "target").exists() else DbtServer(REHEARSAL_DIR)
    with run_local_servers(folder) as (environment, _):
        del rehearsing
        yield environment


@pytest.fixture(scope="session")
def bigquery(local_environment: dict[str, str]) -> Client:
    """A client of the local BigQuery of the session."""
    return connect(local_environment)


@pytest.fixture(scope="session")
def key(local_environment: dict[str, str]) -> dict[str, str]:
    """The key that the block of the session holds, and that the local BigQuery lets in."""
    return saved_key(local_environment)


@pytest.fixture
def key_lines(key: dict[str, str]) -> list[str]:
    """The lines of this private key."""
    return [line for line in key["private_key"].splitlines() if "PRIVATE KEY" not in line]


@pytest.fixture
def make_project(
    tmp_path: Path, local_environment: dict[str, str]
) -> Callable[[dict[str, str]], Project]:
    """Return a function that copies the project, with other dbt files."""
    return lambda dbt_files: copy_project(tmp_path, local_environment, dbt_files)


@pytest.fixture
def without_prefect_server(tmp_path: Path, local_environment: dict[str, str]) -> dict[str, str]:
    """The variables of a laptop that has the credentials block and no Prefect server."""
    home = tmp_path / "prefect-home"
    copy_prefect_database(Path(local_environment["PREFECT_HOME"]), home)
    return {"PREFECT_API_URL": "", "PREFECT_HOME": str(home)}


@pytest.fixture(scope="module")
def outside():
    """A proxy that everything outside the machine would go through; yields what came."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        requests = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    requests.append(connection.recv(200))

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", requests
        server.close()

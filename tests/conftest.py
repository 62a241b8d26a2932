"""Fixtures: one local BigQuery and Prefect for the session, a copy of the project a test."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

# Before anything imports Prefect, which would make a ~/.prefect.
os.environ["PREFECT_HOME"] = mkdtemp(prefix="prefect-home-")

import httpx
import pytest
from google.cloud.bigquery import Client
from prefect.client.orchestration import SyncPrefectClient, get_client

from dbt_connection import bigquery_client, load_credentials
from local_bigquery import copy_prefect_database, local_bigquery, on_prefect_server
from pipeline_settings import PROJECT_ROOT, PipelineSettings

# A shell that starts the tests in the background has it ignored, for all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ONE_MODEL = {"models/one.sql": "select 1 as id"}


@dataclass
class Project:
    """A copy of the project, and the environment its commands run in."""

    root: Path
    environment: dict[str, str]

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a Python file of the project with its arguments, from another folder."""
        return subprocess.run(
            [sys.executable, str(self.root / command[0]), *command[1:]],
            env=self.environment | variables,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def run_pipeline(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the pipeline of the project."""
        return self.run("prefect/pipeline.py", *arguments, **variables)


@pytest.fixture(scope="session")
def local_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of commands that run against the local servers."""
    with local_bigquery(tmp_path_factory.mktemp("local")) as (environment, _):
        yield environment


def connect(environment: dict[str, str]) -> Client:
    """Return a client of the local BigQuery of this environment."""
    with on_prefect_server(environment):
        credentials = load_credentials("sa-key")
    return bigquery_client(credentials, PipelineSettings.from_mapping(environment))


@contextmanager
def prefect_client(environment: dict[str, str]) -> Iterator[SyncPrefectClient]:
    """Yield a client of the Prefect server of this environment."""
    with on_prefect_server(environment), get_client(sync_client=True) as client:
        yield client


def read_blocks(api_url: str, **headers: str) -> httpx.Response:
    """Ask a Prefect server for its blocks and their secrets, as any program may try."""
    return httpx.post(
        f"{api_url}/block_documents/filter",
        json={"include_secrets": True},
        headers=headers,
        trust_env=False,
    )


@pytest.fixture(scope="session")
def bigquery(local_environment: dict[str, str]) -> Client:
    """A client of the local BigQuery of the session."""
    return connect(local_environment)


def copy_project(root: Path, environment: dict[str, str], dbt_files: dict[str, str]) -> Project:
    """Copy the project to `root`, with a HOME and a temporary folder of its own.

    With `dbt_files` (path in dbt/ -> text), its models and tests are these and no others.
    """
    project = root / "project"
    for folder in ("prefect", "utilities", "dbt"):
        shutil.copytree(
            PROJECT_ROOT / folder,
            project / folder,
            ignore=shutil.ignore_patterns("target", "logs", "__pycache__", ".user.yml"),
        )
    for name in (
        "prefect.toml",
        "prefect.yaml",
        "pyproject.toml",
        "requirements.txt",
        ".gitignore",
    ):
        shutil.copy(PROJECT_ROOT / name, project)
    if dbt_files:
        for folder in ("models", "data-tests", "snapshots"):
            shutil.rmtree(project / "dbt" / folder)
        for path, text in dbt_files.items():
            (project / "dbt" / path).parent.mkdir(exist_ok=True)
            (project / "dbt" / path).write_text(text)
    home, temporary = root / "home", root / "tmp"
    home.mkdir()
    temporary.mkdir()
    # No activated environment: the pipeline has to find its own dbt.
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if ".venv" not in p)
    dataset = f"test_{root.name}".replace("-", "_")
    return Project(
        project,
        environment
        | {
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "PATH": path,
            "DBT_BIGQUERY_DATASET_DEV": f"{dataset}_dev",
            "DBT_BIGQUERY_DATASET_PROD": f"{dataset}_prod",
        },
    )


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

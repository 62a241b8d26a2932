"""A copy of the project for a test, and how a test looks at what it did."""

import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import httpx
import pytest
from google.cloud.bigquery import Client
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterStartTime
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import root_settings_context

from bi_pipeline.bigquery.connection import load_credentials
from bi_pipeline.settings import PROJECT_ROOT, REHEARSAL_DIR, PipelineSettings
from support.bigquery_access import make_bigquery_client
from support.local_content import use_prefect_server

DBT_PROJECT = """
name: project
profile: project
test-paths: [data-tests]
flags: {send_anonymous_usage_stats: false}
"""
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


def copy_project(root: Path, environment: dict[str, str], dbt_files: dict[str, str]) -> Project:
    """Copy the project to `root`, with a HOME and a temporary folder of its own.

    With `dbt_files` (path in dbt/ -> text), its dbt project is these and nothing else.
    """
    project = root / "project"
    for folder in ("prefect", "utilities"):
        # With their __pycache__, or each test compiles them again. A file of another name there is
        # one that Python is writing, and will rename during the copy.
        shutil.copytree(
            PROJECT_ROOT / folder, project / folder, ignore=shutil.ignore_patterns("*.pyc.*")
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
        # Whatever project a team has put there. The profile is ours.
        (project / "dbt").mkdir()
        shutil.copy(PROJECT_ROOT / "dbt" / "profiles.yml", project / "dbt")
        for path, text in ({"dbt_project.yml": DBT_PROJECT} | dbt_files).items():
            (project / "dbt" / path).parent.mkdir(parents=True, exist_ok=True)
            (project / "dbt" / path).write_text(text)
    else:
        made = shutil.ignore_patterns("target", "logs", "__pycache__", ".user.yml")
        shutil.copytree(PROJECT_ROOT / "dbt", project / "dbt", ignore=made)
    if (REHEARSAL_DIR / "target").exists():
        # The dbt server parses this at start: without it, dbt's own macros once more for each test.
        shutil.copytree(REHEARSAL_DIR, project / REHEARSAL_DIR.relative_to(PROJECT_ROOT))
    home, temporary = root / "home", root / "tmp"
    home.mkdir()
    temporary.mkdir()
    # Without .venv on PATH, as in a shell that has not activated it: the pipeline has to find dbt.
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


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, as nobody in particular; return what it prints."""
    names = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    run = subprocess.run(
        ["git", *names, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return run.stdout


def built(run: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the names of what a run of the pipeline built in dev."""
    _, _, summary = run.stdout.partition("Construit (cible dev) :\n")
    relations = takewhile(lambda line: line.startswith("  "), summary.splitlines())
    return [line.split()[0].partition(".")[2] for line in relations]


def connect(environment: dict[str, str]) -> Client:
    """Return a client of the local BigQuery of this environment."""
    with use_prefect_server(environment):
        credentials = load_credentials("sa-key")
    return make_bigquery_client(credentials, PipelineSettings.from_mapping(environment))


def saved_key(environment: dict[str, str]) -> dict[str, str]:
    """Return the key in the credentials block: the only one that the local BigQuery lets in."""
    with use_prefect_server(environment):
        block = load_credentials(environment["PREFECT_GCP_CREDENTIALS_BLOCK"])
    key: dict[str, str] = block.service_account_info.get_secret_value()
    return key


def copy_prefect_database(source: Path, target: Path) -> None:
    """Copy the database of a running Prefect server: migrated, credentials block included."""
    target.mkdir()
    with (
        closing(sqlite3.connect(source / "prefect.db")) as original,
        closing(sqlite3.connect(target / "prefect.db")) as copy,
    ):
        original.backup(copy)


@contextmanager
def prefect_client(environment: dict[str, str]) -> Iterator[SyncPrefectClient]:
    """Yield a client of the Prefect server of this environment."""
    with use_prefect_server(environment), get_client(sync_client=True) as client:
        yield client


def last_run(client: SyncPrefectClient) -> FlowRun:
    """Return the last run to start; those that a schedule has planned have not."""
    started = FlowRunFilter(start_time=FlowRunFilterStartTime(is_null_=False))
    (run,) = client.read_flow_runs(
        flow_run_filter=started, sort=FlowRunSort.START_TIME_DESC, limit=1
    )
    return run


@contextmanager
def in_environment(environment: dict[str, str]) -> Iterator[None]:
    """Have this process run as a command in this environment, with no `.env`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("PYTHON_DOTENV_DISABLED", "1")
        with root_settings_context():
            yield


def run_main(
    main: Callable[[list[str]], int], *arguments: str, environment: dict[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command of utilities/ in this process, whose imports are done, as in an environment."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        in_environment(environment),
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main(list(arguments))
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())


def processes_using(folder: Path) -> list[str]:
    """Return the command lines of the live processes that name this folder."""
    return [command for _, command in processes(folder)]


def processes(folder: Path) -> list[tuple[int, str]]:
    """Return the id and the command line of the live processes that name this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (process / "environ").read_bytes().decode(errors="replace")
            except (OSError, UnicodeDecodeError):
                continue
            if str(folder) in command + environment:
                found.append((int(process.name), command))
    return found


def read_blocks(api_url: str, **headers: str) -> httpx.Response:
    """Ask a Prefect server for its blocks and their secrets, as any program may try."""
    return httpx.post(
        f"{api_url}/block_documents/filter",
        json={"include_secrets": True},
        headers=headers,
        trust_env=False,
    )

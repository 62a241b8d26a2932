"""The pipeline as a deployment: a real server, a real worker, a clone of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from google.api_core.exceptions import NotFound
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment
from prefect.states import Scheduled
from project import ONE_MODEL, copy_project

from local_bigquery import UNIVERSE_DOMAIN, on_prefect_server
from pipeline_settings import PipelineSettings

DEPLOYMENT = "pipeline-dbt-complet/pipeline-dbt-complet"
DEV, PROD = "deployed_dev", "deployed_prod"


class Deployment:
    """What the tests ask of the deployment."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root, self.environment = root, environment

    def prefect(self, *arguments: str) -> str:
        """Run the Prefect command line in the project; return what it printed."""
        process = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    def run(self, env: dict[str, str] | None = None, **parameters):
        """Run the deployment to its end; with `env`, over that of prefect.yaml."""
        job_variables = {"env": env or {}}
        return run_deployment(
            DEPLOYMENT, parameters=parameters, job_variables=job_variables, timeout=180
        )


def logs(run) -> list[tuple[int, str]]:
    """Return level and message of each log line of a run."""
    log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    # Logs are sent in batches, the last one as the process ends.
    deadline = time.monotonic() + 20
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            lines = [(x.level, x.message) for x in client.read_logs(log_filter, limit=200)]
            if any("Finished in state" in message for _, message in lines):
                break
            time.sleep(0.5)
    return lines


def has_table(bigquery, dataset, table="one"):
    """Return whether the local BigQuery has this table."""
    try:
        return bool(bigquery.get_table(f"{dataset}.{table}"))
    except NotFound:
        return False


@pytest.fixture(scope="module")
def deployment(tmp_path_factory, local_environment):
    """The project, deployed from prefect.yaml, with a worker in a folder of its own."""
    root = tmp_path_factory.mktemp("deployed")
    project = copy_project(root, local_environment, ONE_MODEL)
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "x"],
    ):
        subprocess.run(["git", *command], cwd=project.root, check=True)
    settings = set(PipelineSettings.variables())
    environment = {k: v for k, v in project.environment.items() if k not in settings} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), project.environment["PATH"]]),
        "GIT_REPOSITORY": str(project.root),
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN": UNIVERSE_DOMAIN,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    deployment = Deployment(project.root, environment)
    deployment.prefect("work-pool", "create", "--type", "process", "pipeline-dbt")
    deployment.prefect("--no-prompt", "deploy", "--name", "pipeline-dbt-complet")
    # Only the runs that a test asks for.
    deployment.prefect("deployment", "schedule", "clear", "-y", DEPLOYMENT)
    for name in ("GCP_PROJECT_ID", "DBT_BIGQUERY_API_ENDPOINT", "DBT_BIGQUERY_DATASET_RAW"):
        deployment.prefect("variable", "set", name.lower(), local_environment[name])
    deployment.prefect("variable", "set", "dbt_bigquery_dataset_dev", DEV)
    deployment.prefect("variable", "set", "dbt_bigquery_dataset_prod", PROD)
    elsewhere = tmp_path_factory.mktemp("worker")
    with (elsewhere / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "pipeline-dbt"],
            cwd=elsewhere,
            env=environment,
            stdout=log,
            stderr=log,
        )
    with on_prefect_server(environment):
        yield deployment
    worker.terminate()
    worker.wait(timeout=30)


def test_deployment_has_a_daily_schedule_and_a_form_with_choices(deployment):
    deployment.prefect("--no-prompt", "deploy", "--name", "pipeline-dbt-complet")
    with get_client(sync_client=True) as client:
        read = client.read_deployment_by_name(DEPLOYMENT)
    deployment.prefect("deployment", "schedule", "clear", "-y", DEPLOYMENT)

    schedule = read.schedules[0].schedule
    properties = read.parameter_openapi_schema["properties"]
    assert (schedule.cron, schedule.timezone) == ("0 9 * * *", "Europe/Paris")
    assert read.job_variables["env"] == {"DBT_TARGET": "prod"}
    assert list(properties) == ["target", "select", "exclude", "full_refresh", "commands"]
    assert all(x["description"].strip() for x in properties.values())
    assert ["dev", "prod"] in [x.get("enum") for x in properties["target"]["anyOf"]]
    assert properties["commands"]["items"]["enum"][:2] == ["run", "test"]
    assert read.parameter_openapi_schema.get("required", []) == []


def test_run_configured_by_variables_writes_into_prod_and_leaves_dev(deployment, bigquery):
    run = deployment.run()

    assert run.state.is_completed(), logs(run)
    assert has_table(bigquery, PROD)
    assert not has_table(bigquery, DEV)
    messages = [message for _, message in logs(run)]
    assert any("Target           : prod\nDataset utilisé  : deployed_prod" in x for x in messages)


def test_run_with_no_target_writes_into_dev_and_warns(deployment, bigquery):
    run = deployment.run(env={"DBT_TARGET": ""})

    assert run.state.is_completed(), logs(run)
    assert has_table(bigquery, DEV)
    warnings = [message for level, message in logs(run) if level == 30]
    assert any("DBT_TARGET" in x and DEV in x and "dbt_target" in x for x in warnings)
    with get_client(sync_client=True) as client:
        response = client.request(
            "GET", "/artifacts/{key}/latest", path_params={"key": "dbt-run-dev"}
        )
    assert "DBT_TARGET n'est défini nulle part" in response.json()["data"]
    assert response.json()["flow_run_id"] == str(run.id)


def test_environment_alone_is_enough_and_wins_over_variables(
    deployment, bigquery, local_environment
):
    environment = {name: local_environment[name] for name in PipelineSettings.variables()} | {
        "DBT_TARGET": "dev",
        "DBT_BIGQUERY_DATASET_DEV": "by_environment_dev",
    }
    deployment.prefect("variable", "set", "dbt_target", "prod")
    try:
        run = deployment.run(env=environment)
    finally:
        deployment.prefect("variable", "unset", "dbt_target", "--no-prompt")

    assert run.state.is_completed(), logs(run)
    assert has_table(bigquery, "by_environment_dev")


def test_parameters_choose_the_target_and_the_nodes(deployment, bigquery):
    run = deployment.run(target="dev", select="nothing_like_this", commands=["run"])

    assert run.state.is_failed()
    assert "aucun nœud" in run.state.message
    assert any("Target           : dev" in message for _, message in logs(run))


def test_runs_started_together_do_not_overlap(deployment):
    with get_client(sync_client=True) as client:
        read = client.read_deployment_by_name(DEPLOYMENT)
        runs = [client.create_flow_run_from_deployment(read.id, state=Scheduled()) for _ in "12"]
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            ended = [client.read_flow_run(run.id) for run in runs]
            if all(run.state.is_final() for run in ended):
                break
            time.sleep(1)
        spans = []
        for run in ended:
            of_this_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
            task_runs = client.read_task_runs(flow_run_filter=of_this_run)
            spans.append((min(t.start_time for t in task_runs), max(t.end_time for t in task_runs)))

    assert all(run.state.is_completed() for run in ended)
    first, second = sorted(spans)
    assert first[1] <= second[0]


@pytest.mark.slow
def test_schedule_fires_the_deployment(deployment):
    deployment.prefect(
        "deployment", "schedule", "create", DEPLOYMENT, "--interval", "15", "--replace", "-y"
    )
    completed = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED]))
    )
    try:
        with get_client(sync_client=True) as client:
            deadline = time.monotonic() + 120
            fired = []
            while not fired and time.monotonic() < deadline:
                time.sleep(2)
                runs = client.read_flow_runs(flow_run_filter=completed)
                fired = [run for run in runs if run.auto_scheduled]
    finally:
        deployment.prefect("deployment", "schedule", "clear", "-y", DEPLOYMENT)

    assert fired

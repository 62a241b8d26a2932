"""The pipeline as a deployment: a real server, a real worker, a clone of its own."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from google.api_core.exceptions import NotFound
from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import Scheduled
from prefect.variables import Variable

from bi_pipeline.result import WITH_WARNINGS
from bi_pipeline.settings import PipelineSettings
from pipeline import dbt_full_pipeline
from project import ONE_MODEL, copy_project
from support.local_content import UNIVERSE_DOMAIN, use_prefect_server

pytestmark = pytest.mark.slow

MODELS = ONE_MODEL | {
    "models/other.sql": "select 1 as id",
    "models/one.yml": """
models:
  - name: one
    columns:
      - name: id
        data_tests:
          - accepted_values: {arguments: {values: [2]}, config: {severity: warn}}
""",
}
DEPLOYMENT = "pipeline-dbt-complet/pipeline-dbt-complet"
# Each way to configure a run writes into a dataset of its own, which shows the setting that won.
DEV, PROD = "deployed_dev", "deployed_prod"
ENVIRONMENT_DEV = "by_environment_dev"


class Deployment:
    """The deployment, and Prefect's command line for it."""

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


def only(run) -> FlowRunFilter:
    """Return the filter of what belongs to one run."""
    return FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))


def log_line(run, *words):
    """Return the log line of a run that has these words, once the run has sent it."""
    log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            # The newest first: a run that waits for another gets a line of the worker each second,
            # and the line wanted could come after the 200th.
            lines = client.read_logs(log_filter, limit=200, sort="TIMESTAMP_DESC")
            for line in lines:
                if all(word in line.message for word in words):
                    return line
            assert time.monotonic() < deadline, [line.message for line in lines]
            time.sleep(0.5)


def read_log(run):
    """Return the lines that a run has sent, the oldest first."""
    log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    with get_client(sync_client=True) as client:
        return client.read_logs(log_filter, limit=200, sort="TIMESTAMP_ASC")


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
    project = copy_project(root, local_environment, MODELS)
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "x"],
    ):
        subprocess.run(["git", *command], cwd=project.root, check=True)
    settings = set(PipelineSettings.list_variables())
    environment = {k: v for k, v in project.environment.items() if k not in settings} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), project.environment["PATH"]]),
        "GIT_REPOSITORY": str(project.root),
        "GIT_BRANCH": "main",
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN": UNIVERSE_DOMAIN,
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        # The pipeline never reads it from a Variable: without it here, the runs would ask Google.
        "DBT_BIGQUERY_API_ENDPOINT": local_environment["DBT_BIGQUERY_API_ENDPOINT"],
    }
    deployment = Deployment(project.root, environment)
    with use_prefect_server(environment), get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="pipeline-dbt", type="process"))
    deployment.prefect("--no-prompt", "deploy", "--name", "pipeline-dbt-complet")
    elsewhere = tmp_path_factory.mktemp("worker")
    deployment.worker_log = elsewhere / "log"
    with deployment.worker_log.open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "pipeline-dbt"],
            cwd=elsewhere,
            env=environment,
            stdout=log,
            stderr=log,
        )
    variables = {
        name: local_environment[name] for name in ("GCP_PROJECT_ID", "DBT_BIGQUERY_DATASET_RAW")
    } | {"DBT_BIGQUERY_DATASET_DEV": DEV, "DBT_BIGQUERY_DATASET_PROD": PROD}
    with use_prefect_server(environment):
        with get_client(sync_client=True) as client:
            deployment.as_deployed = client.read_deployment_by_name(DEPLOYMENT)
            # Only the runs that a test asks for.
            clear_schedules(client, deployment)
        for name, value in variables.items():
            Variable.set(name.lower(), value)
        yield deployment
    worker.terminate()
    worker.wait(timeout=30)


def clear_schedules(client, deployment):
    """Delete the schedules of the deployment, with the runs that have not begun."""
    for schedule in client.read_deployment_schedules(deployment.as_deployed.id):
        client.delete_deployment_schedule(deployment.as_deployed.id, schedule.id)


def fire_schedule(client, deployment):
    """Give the deployment a schedule until one of its runs has begun; return that run."""
    # Each 15 seconds, Prefect would make a hundred runs at once, for nothing.
    soon = datetime.now(UTC) + timedelta(seconds=15)
    schedule = IntervalSchedule(interval=timedelta(minutes=1), anchor_date=soon)
    client.create_deployment_schedules(deployment.as_deployed.id, [(schedule, True)])
    begun = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])
    begun_filter = FlowRunFilter(state=FlowRunFilterState(type=begun))
    deadline = time.monotonic() + 240
    try:
        while time.monotonic() < deadline:
            for run in client.read_flow_runs(flow_run_filter=begun_filter):
                if run.auto_scheduled:
                    return run
            time.sleep(0.5)
    finally:
        clear_schedules(client, deployment)
    raise AssertionError("the schedule has started no run")


@pytest.fixture(scope="module")
def runs(deployment, local_environment):
    """Runs that were started together and have ended, by what configured them.

    The schedule starts that which the Variables configure. That of the environment has parameters.
    """
    environment = {name: local_environment[name] for name in PipelineSettings.list_variables()} | {
        "DBT_TARGET": "prod",
        "DBT_BIGQUERY_DATASET_DEV": ENVIRONMENT_DEV,
    }
    with get_client(sync_client=True) as client:
        runs = {
            "variables": fire_schedule(client, deployment),
            "environment": client.create_flow_run_from_deployment(
                deployment.as_deployed.id,
                state=Scheduled(),
                parameters={"target": "dev", "select": "one", "commands": ["run"]},
                # A run's own variables win over those of prefect.yaml.
                job_variables={"env": environment},
            ),
            "failing": client.create_flow_run_from_deployment(
                deployment.as_deployed.id,
                state=Scheduled(),
                parameters={"target": "dev", "select": "nowhere", "commands": ["run"]},
            ),
        }
        deadline = time.monotonic() + 480
        while not all(run.state.is_final() for run in runs.values()):
            assert time.monotonic() < deadline
            time.sleep(1)
            runs = {name: client.read_flow_run(run.id) for name, run in runs.items()}
    return runs


def test_deployment_has_a_daily_schedule_and_a_form_with_choices(deployment):
    read = deployment.as_deployed

    schedule = read.schedules[0].schedule
    properties = read.parameter_openapi_schema["properties"]
    assert (schedule.cron, schedule.timezone) == ("0 9 * * *", "Europe/Paris")
    assert read.job_variables["env"] == {"DBT_TARGET": "prod"}
    assert list(properties) == list(dbt_full_pipeline.parameters.properties)
    assert all(x["description"].strip() for x in properties.values())
    assert ["dev", "prod"] in [x.get("enum") for x in properties["target"]["anyOf"]]
    assert properties["commands"]["items"]["enum"][:2] == ["run", "test"]
    assert read.parameter_openapi_schema.get("required", []) == []


def test_run_of_the_schedule_configured_by_variables_writes_into_prod_and_leaves_dev(
    runs, bigquery
):
    run = runs["variables"]

    assert run.auto_scheduled
    assert run.state.is_completed(), run.state
    assert has_table(bigquery, PROD)
    assert not has_table(bigquery, DEV)
    assert log_line(run, "Target           : prod\nDataset utilisé  : deployed_prod")


def test_run_in_which_dbt_warned_has_a_state_of_its_own_that_names_the_test(runs):
    state = runs["variables"].state

    assert state.name == WITH_WARNINGS
    assert "accepted_values_one_id__2 : 1 ligne en défaut (models/one.yml)" in state.message


def test_environment_alone_is_enough_and_wins_over_variables(runs, bigquery):
    run = runs["environment"]

    assert run.state.is_completed(), run.state
    assert has_table(bigquery, ENVIRONMENT_DEV)


def test_parameters_choose_the_target_the_nodes_and_the_commands(runs, bigquery):
    run = runs["environment"]

    assert log_line(run, f"Target           : dev\nDataset utilisé  : {ENVIRONMENT_DEV}")
    assert not has_table(bigquery, ENVIRONMENT_DEV, "other")
    # Not the state of a run in which dbt warned: the test has not run.
    assert run.state.name == "Completed"


def test_log_of_a_failed_run_ends_with_its_reason_and_without_a_traceback(runs, deployment):
    run = runs["failing"]
    reason = "dbt run : rien à faire, la sélection ne correspond à aucun nœud"

    lines = [line.message for line in read_log(log_line(run, reason) and run)]

    assert run.state.type == StateType.FAILED
    assert reason in run.state.message
    assert lines[-1] == run.state.message, lines
    assert "Traceback" not in deployment.worker_log.read_text()


def test_log_of_a_run_in_which_dbt_warned_ends_with_the_warnings(runs):
    run = runs["variables"]

    lines = read_log(log_line(run, "Avertissements :\n") and run)

    assert lines[-1].message == run.state.message


def test_runs_started_together_do_not_overlap(runs):
    spans = []
    with get_client(sync_client=True) as client:
        for run in runs.values():
            task_runs = client.read_task_runs(flow_run_filter=only(run))
            spans.append((min(t.start_time for t in task_runs), max(t.end_time for t in task_runs)))

    spans.sort()
    assert all(first[1] <= second[0] for first, second in pairwise(spans))

"""prefect-cloud itself, as the README gives its commands: what it deploys, and what it loses.

In front of it, a stand-in of Prefect Cloud (stand_in_cloud.py says what it answers) with a Prefect
server behind, and one of GitHub, from which prefect-cloud reads the flow's file.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import deploy
from pipeline import dbt_full_pipeline
from project import prefect_client
from stand_in_cloud import KEY, stand_in_cloud
from stand_in_github import stand_in_github

pytestmark = pytest.mark.slow

# Installed apart: prefect-cloud 0.1.13 wants older typer and tzlocal than our lock has.
VERSION = "0.1.13"
DEPLOYMENT = "dbt_full_pipeline/pipeline-dbt-complet"
DEPLOY = (
    *("deploy", "prefect/pipeline.py:dbt_full_pipeline", "--from", "equipe/projet"),
    *("--with-requirements", "requirements.txt", "--with-python", "3.11"),
    *("--env", "DBT_TARGET=prod", "--name", "pipeline-dbt-complet"),
)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """prefect-cloud, in a virtual environment of its own."""
    folder = tmp_path_factory.mktemp("prefect-cloud")
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", folder, f"prefect-cloud=={VERSION}"],
        check=True,
    )
    return folder / "bin" / "prefect-cloud"


@pytest.fixture(scope="module")
def prefect_cloud(tmp_path_factory, program, local_environment):
    """Return a function that runs prefect-cloud with a key of the workspace."""
    home = tmp_path_factory.mktemp("home")
    with stand_in_cloud(local_environment) as cloud, stand_in_github(home) as github:
        environment = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            # prefect-cloud takes the time zone of the machine for the cron: if this were UTC or
            # Paris, it could not be told from a default.
            "TZ": "America/Montreal",
            "PREFECT_CLOUD_API_URL": cloud.url,
            "PREFECT_API_URL": cloud.workspace_url,
            "PREFECT_API_KEY": KEY,
            **github.environment,
        }

        def run(*arguments):
            return subprocess.run(
                [program, *arguments], cwd=home, env=environment, capture_output=True, text=True
            )

        yield run


@pytest.fixture(scope="module")
def deployed(prefect_cloud, local_environment):
    """The server's deployment after the first deploy and its schedule, then after a second one."""
    found = []
    with prefect_client(local_environment) as client:
        for commands in ([DEPLOY, ("schedule", DEPLOYMENT, "0 9 * * *")], [DEPLOY]):
            for command in commands:
                done = prefect_cloud(*command)
                assert done.returncode == 0, done.stdout + done.stderr
            found.append(client.read_deployment_by_name(DEPLOYMENT))
        yield found
        client.delete_deployment(found[0].id)


def test_flow_is_named_after_its_function_and_has_the_form(deployed):
    properties = deployed[0].parameter_openapi_schema["properties"]

    assert list(properties) == list(dbt_full_pipeline.parameters.properties)
    assert properties["commands"]["items"]["enum"][:2] == ["run", "test"]
    assert deployed[0].job_variables["env"]["DBT_TARGET"] == "prod"
    assert deployed[0].job_variables["image"] == deploy.MANAGED_IMAGE


def test_schedule_is_in_the_time_zone_of_the_machine_that_deploys(deployed):
    (schedule,) = deployed[0].schedules

    assert (schedule.schedule.cron, schedule.schedule.timezone) == (
        "0 9 * * *",
        "America/Montreal",
    )


def test_nothing_keeps_two_runs_from_going_on_at_once(deployed):
    assert deployed[0].global_concurrency_limit is None


def test_second_deployment_drops_the_schedule(deployed):
    assert deployed[1].id == deployed[0].id
    assert deployed[1].schedules == []


def test_run_starts_a_run_of_what_deploy_py_deployed_too(
    deployed, prefect_cloud, local_environment
):
    with prefect_client(local_environment) as client:
        deployment_id = client.create_deployment(
            flow_id=client.create_flow_from_name("pipeline-dbt-complet"),
            name="pipeline-dbt-complet",
            work_pool_name=deployed[0].work_pool_name,
        )

        started = prefect_cloud("run", "pipeline-dbt-complet/pipeline-dbt-complet")

        runs = client.read_flow_runs(limit=50, sort="EXPECTED_START_TIME_DESC")
        client.delete_deployment(deployment_id)
    assert started.returncode == 0, started.stdout + started.stderr
    names = [run.name for run in runs if run.deployment_id == deployment_id]
    assert [name for name in names if name in started.stdout]

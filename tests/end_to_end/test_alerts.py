"""Alerts: what reaches the channel, from a real Prefect server, and what is left alone."""

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.automations import Automation
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import Completed, Failed

from dbt_result import WITH_WARNINGS
from pipeline import dbt_full_pipeline
from project import Project, copy_project, in_environment, prefect_client
from webhook import webhook

pytestmark = pytest.mark.slow

MODELS = {
    "models/good.sql": "select 1 as id",
    "models/broken.sql": "select * from nowhere",
    "models/good.yml": """
models:
  - name: good
    columns:
      - name: id
        data_tests:
          - accepted_values: {arguments: {values: [2]}, config: {severity: warn}}
""",
}
FLOW = "pipeline-dbt-complet"
NAMES = ["Pipeline dbt : échec", "Pipeline dbt : avertissements", "Pipeline dbt : aucune réussite"]


@pytest.fixture(scope="module")
def channel():
    with webhook() as channel:
        yield channel


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment) -> Project:
    return copy_project(tmp_path_factory.mktemp("alerts"), local_environment, MODELS)


def run_alerts(project, *arguments, address="", **variables):
    """Run the tool with the address on its standard input."""
    return subprocess.run(
        [sys.executable, str(project.root / "utilities" / "alerts.py"), *arguments],
        env=project.environment | variables,
        cwd="/",
        input=address,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def alerted(project, channel):
    """The project, whose alerts go to the webhook."""
    made = run_alerts(project, "webhook", "--yes", address=f"{channel.url}\n")
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("créé") == 4
    return project


def read_automations(project):
    """Return what Prefect has of ours, by name."""
    with prefect_client(project.environment) as client:
        return {
            automation.name: automation
            for name in NAMES
            for automation in client.read_automations_by_name(name)
        }


def run_deployed(project, name, **parameters):
    """Run the pipeline as a worker does, in a deployment of this name; return the run."""
    with prefect_client(project.environment) as client:
        deployment_id = client.create_deployment(
            flow_id=client.create_flow_from_name(FLOW),
            name=name,
            entrypoint="prefect/pipeline.py:dbt_full_pipeline",
            pull_steps=[
                {
                    "prefect.deployments.steps.set_working_directory": {
                        "directory": str(project.root)
                    }
                }
            ],
        )
        run = client.create_flow_run_from_deployment(deployment_id, parameters=parameters)
        subprocess.run(
            [sys.executable, "-m", "prefect", "flow-run", "execute", str(run.id)],
            env=project.environment
            | {"PATH": f"{Path(sys.executable).parent}:{project.environment['PATH']}"},
            cwd="/",
            capture_output=True,
        )
        return client.read_flow_run(run.id)


def test_failed_run_says_the_model_its_file_the_reason_and_the_link(alerted, channel):
    run = run_deployed(alerted, "pipeline-dbt-complet")

    assert run.state.is_failed(), run.state
    message = channel.wait_for(lambda text: run.name in text, seconds=30)
    assert "Pipeline dbt : échec" in message
    assert "dbt run a échoué : modèle broken (models/broken.sql)" in message
    assert "nowhere" in message
    assert f"/runs/flow-run/{run.id}" in message


def test_run_in_which_dbt_warned_has_a_state_of_its_own_and_is_told(alerted, channel):
    run = run_deployed(alerted, "pipeline-dbt-complet", select="good")

    assert run.state.is_completed()
    assert run.state.name == WITH_WARNINGS
    message = channel.wait_for(lambda text: run.name in text, seconds=30)
    assert "Pipeline dbt : avertissements" in message
    assert "accepted_values_good_id__2 (models/good.yml)" in message
    assert f"/runs/flow-run/{run.id}" in message


def shorten_the_silence(project, seconds):
    """Have Prefect wait for seconds, not hours, for a success."""
    automation = read_automations(project)["Pipeline dbt : aucune réussite"]
    with in_environment(project.environment):
        automation.trigger.within = timedelta(seconds=seconds)
        Automation(**automation.model_dump()).update()


def test_schedule_without_a_success_is_told(alerted, channel):
    with prefect_client(alerted.environment) as client:
        # No worker takes its runs.
        client.create_work_pool(WorkPoolCreate(name="nobody", type="process"))
        deployment_id = client.create_deployment(
            flow_id=client.create_flow_from_name(FLOW),
            name="never-runs",
            work_pool_name="nobody",
            schedules=[
                DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(seconds=5)))
            ],
        )
    shorten_the_silence(alerted, 10)
    try:
        message = channel.wait_for(lambda text: "aucune réussite" in text, seconds=60)
    finally:
        with prefect_client(alerted.environment) as client:
            client.delete_deployment(deployment_id)

    assert "Aucune exécution n'a réussi depuis 26 heures" in message


def end_a_run(project, flow, deployment, state):
    """End a run of a deployment in this state, without running anything; return the run."""
    with prefect_client(project.environment) as client:
        deployment_id = client.create_deployment(
            flow_id=client.create_flow_from_name(flow), name=deployment
        )
        run = client.create_flow_run_from_deployment(deployment_id)
        client.set_flow_run_state(run.id, state, force=True)
    return run


def test_each_success_starts_the_silence_again(alerted, channel):
    shorten_the_silence(alerted, 14)
    channel.received.clear()
    end_a_run(alerted, FLOW, "x", Completed())
    time.sleep(4)
    end_a_run(alerted, FLOW, "x", Completed(name=WITH_WARNINGS))
    last_success = time.monotonic()

    channel.wait_for(lambda text: "aucune réussite" in text, seconds=40)

    # In periods that follow each other, it would be the 24th second.
    assert 13 < time.monotonic() - last_success < 21


def test_deployment_that_prefect_cloud_named_after_the_function_is_told_of(alerted, channel):
    run = end_a_run(alerted, "dbt_full_pipeline", "dbt_full_pipeline", Failed(message="raison"))

    assert "raison" in channel.wait_for(lambda text: run.name in text, seconds=20)


def test_other_flows_and_the_runs_of_a_laptop_are_not_told(alerted, channel):
    channel.received.clear()
    end_a_run(alerted, "other-flow", "pipeline-dbt-complet", Failed(message="other flow"))
    with prefect_client(alerted.environment) as client:
        run = client.create_flow_run(dbt_full_pipeline)
        client.set_flow_run_state(run.id, Failed(message="laptop"), force=True)
    told = end_a_run(alerted, FLOW, "x", Failed(message="ours"))

    channel.wait_for(lambda text: told.name in text, seconds=20)

    assert [x["text"] for x in channel.received if "échec" in x["text"]] == [
        x["text"] for x in channel.received if told.name in x["text"]
    ]


def test_second_time_changes_nothing(alerted, channel):
    run_alerts(alerted, "webhook", "--yes", address=channel.url)
    before = read_automations(alerted)

    again = run_alerts(alerted, "webhook", "--yes", ALERT_ADDRESS=channel.url)

    assert again.returncode == 0, again.stderr
    assert again.stdout.count(" : inchangé") == 4
    assert read_automations(alerted) == before


def test_what_differs_is_updated_in_place_and_what_was_disabled_stays_so(alerted, channel):
    run_alerts(alerted, "webhook", "--yes", address=channel.url)
    before = read_automations(alerted)
    with prefect_client(alerted.environment) as client:
        client.pause_automation(before["Pipeline dbt : aucune réussite"].id)

    changed = run_alerts(alerted, "webhook", "--hours", "80", "--yes")

    assert changed.returncode == 0, changed.stderr
    assert "« Pipeline dbt : aucune réussite » : mise à jour" in changed.stdout
    assert changed.stdout.count("inchangé") == 3
    after = read_automations(alerted)
    silence = after["Pipeline dbt : aucune réussite"]
    assert silence.trigger.within == timedelta(hours=80)
    assert "depuis 80 heures" in silence.actions[0].body
    assert not silence.enabled
    assert {name: x.id for name, x in after.items()} == {name: x.id for name, x in before.items()}


def test_without_yes_nothing_is_made_and_no_address_is_asked(alerted):
    before = read_automations(alerted)

    shown = run_alerts(alerted, "slack")

    assert shown.returncode == 0, shown.stderr
    assert "Block « alertes-pipeline-dbt » (slack) : à créer." in shown.stdout
    assert shown.stdout.count("à mettre à jour") == 3
    assert "ajoutez --yes" in shown.stdout
    assert read_automations(alerted) == before


def test_address_is_neither_shown_nor_readable_on_prefect(alerted, channel):
    made = run_alerts(alerted, "webhook", "--yes", address=channel.url)

    with prefect_client(alerted.environment) as client:
        block = client.read_block_document_by_name(
            "alertes-pipeline-dbt", "custom-webhook", include_secrets=False
        )
    assert channel.url not in made.stdout + made.stderr
    assert "secret-of-the-channel" not in block.model_dump_json()


@pytest.mark.parametrize("address", ["", "\n"])
def test_missing_address_is_said_with_the_two_ways_to_give_it(alerted, address):
    run = run_alerts(alerted, "slack", "--yes", address=address)

    assert run.returncode == 2
    assert "entrée standard" in run.stderr
    assert "ALERT_ADDRESS" in run.stderr


def test_shell_without_a_prefect_that_lasts_is_refused(project):
    run = run_alerts(project, "slack", "--yes", PREFECT_API_URL="")

    assert run.returncode == 2
    assert "prefect server start" in run.stderr

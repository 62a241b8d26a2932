"""Alerts: what reaches the channel, from a real Prefect server, and what is left alone.

The pages of the failed run in Prefect's interface, to which an alert leads, are seen in headless
Chromium.
"""

import logging
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.automations import Automation
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import Completed, Failed, Running
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

import alerts
from bi_pipeline.result import WITH_EARLIER_WARNINGS, WITH_WARNINGS
from pipeline import dbt_full_pipeline
from project import ONE_MODEL, Project, copy_project, in_environment, prefect_client, run_main
from webhook import webhook

pytestmark = pytest.mark.slow

DRIVER = shutil.which("chromedriver")
MODELS = ONE_MODEL | {"models/broken.sql": "select nowhere from (select 1 as a)"}
FLOW = DEPLOYMENT = "pipeline-dbt-complet"
FAILURE, WARNINGS, SILENCE, DEATH = NAMES = [
    "Pipeline dbt : échec",
    "Pipeline dbt : avertissements",
    "Pipeline dbt : aucune réussite",
    "Pipeline dbt : plus de signe de vie",
]


@pytest.fixture(scope="module")
def channel():
    with webhook() as channel:
        yield channel


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment) -> Project:
    return copy_project(tmp_path_factory.mktemp("alerts"), local_environment, MODELS)


def run_alerts(project, *arguments, address="", **variables):
    """Run the tool with the address on its standard input."""
    environment = project.environment | variables
    return run_main(alerts.main, *arguments, environment=environment, stdin=address)


@pytest.fixture(scope="module")
def alerted(project, channel):
    """The project, deployed, whose alerts go to the webhook."""
    make_deployment(project, DEPLOYMENT)
    made = subprocess.run(
        [sys.executable, str(project.root / "utilities" / "alerts.py"), "webhook", "--yes"],
        env=project.environment,
        cwd="/",
        input=f"{channel.url}\n",
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("créé") == 5
    return project


def make_deployment(project, name, flow=FLOW):
    """Make a deployment of this folder's pipeline; return its id."""
    step = "prefect.deployments.steps.set_working_directory"
    with prefect_client(project.environment) as client:
        return client.create_deployment(
            flow_id=client.create_flow_from_name(flow),
            name=name,
            entrypoint="prefect/pipeline.py:dbt_full_pipeline",
            pull_steps=[{step: {"directory": str(project.root)}}],
        )


def read_automations(project, names=NAMES):
    """Return what Prefect has of these, by name; a name that two have is an error."""
    with prefect_client(project.environment) as client:
        there = [x for name in names for x in client.read_automations_by_name(name)]
    by_name = {automation.name: automation for automation in there}
    assert len(by_name) == len(there)
    return by_name


def run_deployed(project):
    """Run the pipeline as a worker does, with no target; return the run once it has ended."""
    with prefect_client(project.environment) as client:
        deployment_id = client.read_deployment_by_name(f"{FLOW}/{DEPLOYMENT}").id
        run = client.create_flow_run_from_deployment(deployment_id)
        path = f"{Path(sys.executable).parent}:{project.environment['PATH']}"
        subprocess.run(
            [sys.executable, "-m", "prefect", "flow-run", "execute", str(run.id)],
            env=project.environment | {"PATH": path, "DBT_TARGET": ""},
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return client.read_flow_run(run.id)


@pytest.fixture(scope="module")
def failed_run(alerted):
    """A run of the pipeline, deployed, that has failed."""
    run = run_deployed(alerted)
    assert run.state.is_failed(), run.state
    return run


def end_a_run(project, flow, deployment, state):
    """End a run of a deployment in this state, without running anything; return the run."""
    with prefect_client(project.environment) as client:
        deployment_id = make_deployment(project, deployment, flow)
        run = client.create_flow_run_from_deployment(deployment_id)
        client.set_flow_run_state(run.id, state, force=True)
    return run


def wait_while(doing, channel, word):
    """Do this each second until a message with the word has come; return the message."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        doing()
        with suppress(AssertionError):
            return channel.wait_for(lambda text: word in text, seconds=1)
    raise AssertionError(f"nothing with {word} in {channel.received}")


def test_failed_run_says_the_model_its_file_the_reason_and_the_link(failed_run, channel):
    message = channel.wait_for(lambda text: failed_run.name in text, seconds=30)

    assert "Pipeline dbt : échec" in message
    assert "dbt run a échoué : modèle broken : " in message
    assert "nowhere" in message
    assert f"/runs/flow-run/{failed_run.id}" in message


@pytest.fixture(scope="module")
def browser(local_environment, tmp_path_factory):
    """A headless Chromium, logged in to the interface as a person is: by typing the secret."""
    if not DRIVER:
        pytest.skip("Chromium's driver is not installed")
    options = webdriver.ChromeOptions()
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("window-size=1280,1400", f"user-data-dir={tmp_path_factory.mktemp('profile')}"),
    ):
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as browser:
        browser.get(local_environment["PREFECT_API_URL"].removesuffix("/api"))
        wait_for(browser, "input[type=password]").send_keys(
            local_environment["PREFECT_API_AUTH_STRING"], Keys.ENTER
        )
        WebDriverWait(browser, 30).until(lambda b: "/login" not in b.current_url)
        yield browser


def wait_for(browser, selector):
    """Return the element of the page once its scripts have made it."""
    return WebDriverWait(browser, 30).until(lambda b: b.find_elements(By.CSS_SELECTOR, selector))[0]


def read_page(browser, url, word):
    """Return the text of the page, once it has the word or after half a minute."""
    browser.get(url)
    body = wait_for(browser, "body")
    with suppress(TimeoutException):
        WebDriverWait(browser, 30).until(lambda _: word in body.text)
    return browser.page_source


@pytest.fixture(scope="module")
def artifact(failed_run, alerted):
    """The artifact of the failed run."""
    filter_ = FlowRunFilter(id=FlowRunFilterId(any_=[failed_run.id]))
    with prefect_client(alerted.environment) as client:
        (artifact,) = client.read_artifacts(flow_run_filter=filter_)
    return artifact


def test_run_with_no_target_writes_into_dev_and_warns(failed_run, artifact, alerted, bigquery):
    dev = alerted.environment["DBT_BIGQUERY_DATASET_DEV"]
    log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[failed_run.id]))
    with prefect_client(alerted.environment) as client:
        lines = client.read_logs(log_filter, limit=200)

    assert bigquery.get_table(f"{dev}.one")
    (warning,) = [x for x in lines if "DBT_TARGET" in x.message]
    assert warning.level == logging.WARNING
    assert dev in warning.message
    assert "dbt_target" in warning.message
    assert "DBT_TARGET n'est défini nulle part" in artifact.data


@pytest.fixture(scope="module")
def pages(failed_run, artifact, browser, alerted):
    """The text of the page of the failed run, and of that of its artifact."""
    base = alerted.environment["PREFECT_API_URL"].removesuffix("/api")
    run_page = f"{base}/runs/flow-run/{failed_run.id}?tab=Details"
    return {
        "run": read_page(browser, run_page, "modèle broken : "),
        "artifact": read_page(browser, f"{base}/artifacts/artifact/{artifact.id}", "█"),
    }


def test_page_of_a_failed_run_has_the_reason_in_what_prefect_shows_of_the_message(pages):
    assert "modèle broken : Query execution" in pages["run"]


def test_artifact_names_the_failed_model_and_its_file(pages):
    assert "models/broken.sql" in pages["artifact"]


def test_artifact_has_the_reason_a_timeline_the_last_runs_and_links_to_the_jobs(pages):
    html = pages["artifact"]

    # bqemulator 1.4.0 keeps the labels of few jobs, but bills none.
    assert "Facturé : rien." in html
    assert "Dernières exécutions" in html
    assert "nowhere" in html
    assert "█" in html
    assert "console.cloud.google.com/bigquery?project=projet-local" in html


def test_run_in_which_dbt_warned_is_told(alerted, channel):
    warned = Completed(name=WITH_WARNINGS, message="un avertissement")
    run = end_a_run(alerted, FLOW, DEPLOYMENT, warned)

    message = channel.wait_for(lambda text: run.name in text, seconds=30)

    assert "Pipeline dbt : avertissements" in message
    assert "un avertissement" in message
    assert f"/runs/flow-run/{run.id}" in message


def shorten(project, name, seconds):
    """Have this automation wait for seconds, not hours or minutes."""
    automation = read_automations(project)[name]
    with in_environment(project.environment):
        automation.trigger.within = timedelta(seconds=seconds)
        Automation(**automation.model_dump()).update()


def test_schedule_without_a_success_is_told_whatever_another_team_s_deployment_does(
    alerted, channel
):
    with prefect_client(alerted.environment) as client:
        # No worker serves this pool: the scheduled runs never succeed, but they have events.
        client.create_work_pool(WorkPoolCreate(name="nobody", type="process"))
        # Under prefect-cloud's flow. Under ours, this would be the deployment of `alerted`, which
        # this test would delete at its end.
        deployment_id = client.create_deployment(
            flow_id=client.create_flow_from_name("dbt_full_pipeline"),
            name=DEPLOYMENT,
            work_pool_name="nobody",
            schedules=[
                DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(hours=1)))
            ],
        )
    shorten(alerted, SILENCE, 10)

    channel.received.clear()
    try:
        message = wait_while(
            lambda: end_a_run(alerted, FLOW, "equipe-b", Completed()), channel, "aucune réussite"
        )
    finally:
        with prefect_client(alerted.environment) as client:
            client.delete_deployment(deployment_id)

    assert "Aucune exécution n'a réussi depuis 26 heures" in message


def test_each_success_starts_the_silence_again(alerted, channel):
    shorten(alerted, SILENCE, 14)
    channel.received.clear()
    end_a_run(alerted, FLOW, DEPLOYMENT, Completed())
    for name in (WITH_WARNINGS, WITH_EARLIER_WARNINGS):
        time.sleep(8)
        end_a_run(alerted, FLOW, DEPLOYMENT, Completed(name=name))
    last_success = time.monotonic()

    channel.wait_for(lambda text: "aucune réussite" in text, seconds=40)

    # If one of these did not count as a success, the alert would come before the last one, or 14 s
    # after the one before it; if periods of 14 s followed each other, 26 s after the last one.
    assert 13 < time.monotonic() - last_success < 21


def send_heartbeat(client, run):
    """Send the heartbeat of a run as Prefect's engine does, whose own are 30 s apart or more."""
    related = {
        "prefect.resource.id": f"prefect.deployment.{run.deployment_id}",
        "prefect.resource.role": "deployment",
    }
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run.id}"},
        "related": [related],
        "payload": {},
    }
    client.request("POST", "/events", json=[event])


def test_heartbeats_of_a_run_are_those_that_the_alert_waits_for(alerted, failed_run):
    trigger = read_automations(alerted)[DEATH].trigger
    wanted = {
        "event": {"name": list(trigger.expect & {"prefect.flow-run.heartbeat"})},
        "resource": {"id": [f"prefect.flow-run.{failed_run.id}"]},
        "related": {"id": trigger.match_related["prefect.resource.id"]},
    }

    with prefect_client(alerted.environment) as client:
        answer = client.request("POST", "/events/filter", json={"filter": wanted})

    assert answer.json()["events"]


def test_run_whose_machine_died_is_crashed_and_told_and_no_other_is(alerted, channel):
    shorten(alerted, DEATH, 10)
    dead, alive = (end_a_run(alerted, FLOW, DEPLOYMENT, Running()) for _ in range(2))
    of_another_team = end_a_run(alerted, FLOW, "equipe-b", Running())
    with prefect_client(alerted.environment) as client:
        # If the trigger took the other team's heartbeats too, that run would be set to Crashed
        # first, as its heartbeat is the older one.
        send_heartbeat(client, of_another_team)
        send_heartbeat(client, dead)

        message = wait_while(lambda: send_heartbeat(client, alive), channel, dead.name)
        states = [client.read_flow_run(x.id).state for x in (dead, alive, of_another_team)]

    assert FAILURE in message
    assert "Plus de signe de vie depuis 10 minutes" in message
    assert [state.name for state in states] == ["Crashed", "Running", "Running"]
    end_a_run(alerted, FLOW, DEPLOYMENT, Completed())


def test_deployment_that_prefect_cloud_made_is_told_of_too(alerted, channel):
    run = end_a_run(alerted, "dbt_full_pipeline", DEPLOYMENT, Failed(message="raison"))

    assert "raison" in channel.wait_for(lambda text: run.name in text, seconds=20)


def test_others_runs_and_those_of_a_laptop_are_not_told(alerted, channel):
    channel.received.clear()
    end_a_run(alerted, "other-flow", DEPLOYMENT, Failed(message="other flow"))
    end_a_run(alerted, FLOW, "equipe-b", Failed(message="other team"))
    with prefect_client(alerted.environment) as client:
        run = client.create_flow_run(dbt_full_pipeline)
        client.set_flow_run_state(run.id, Failed(message="laptop"), force=True)
    told = end_a_run(alerted, FLOW, DEPLOYMENT, Failed(message="ours"))

    channel.wait_for(lambda text: told.name in text, seconds=20)

    # On a loaded machine, a run of an earlier test may have given no sign of life for too long.
    texts = [x["text"] for x in channel.received if "signe de vie" not in x["text"]]
    assert [text for text in texts if "échec" in text] == [x for x in texts if told.name in x]


def test_two_teams_on_one_prefect_each_have_their_alerts(alerted, channel):
    make_deployment(alerted, "equipe_b")
    before = read_automations(alerted)
    with webhook() as of_team_b:
        made = run_alerts(alerted, "webhook", "--name", "equipe_b", "--yes", address=of_team_b.url)
        run = end_a_run(alerted, FLOW, "equipe_b", Failed(message="raison"))
        message = of_team_b.wait_for(lambda text: run.name in text, seconds=20)

    assert made.returncode == 0, made.stderr
    assert "« alertes-pipeline-dbt-equipe-b » (webhook) : créé" in made.stdout
    assert "Pipeline dbt equipe_b : échec" in message
    assert not [x for x in channel.received if run.name in x["text"]]
    assert read_automations(alerted) == before


def test_second_time_changes_nothing_and_the_plan_says_so(alerted, channel):
    run_alerts(alerted, "webhook", "--yes", address=channel.url)
    before = read_automations(alerted)

    plan = run_alerts(alerted, "webhook", ALERT_ADDRESS=channel.url)
    blind = run_alerts(alerted, "webhook")
    again = run_alerts(alerted, "webhook", "--yes", ALERT_ADDRESS=channel.url)

    for run in (plan, again):
        assert run.returncode == 0, run.stderr
        assert run.stdout.count(" : inchangé") == 5
    assert "déjà là ; son adresse se compare si ALERT_ADDRESS la donne" in blind.stdout
    assert blind.stdout.count(" : inchangée") == 4
    assert read_automations(alerted) == before


def test_what_differs_is_updated_in_place_and_what_was_disabled_stays_so(alerted, channel):
    run_alerts(alerted, "webhook", "--yes", address=channel.url)
    before = read_automations(alerted)
    with prefect_client(alerted.environment) as client:
        client.pause_automation(before[SILENCE].id)

    plan = run_alerts(alerted, "webhook", "--hours", "80")
    changed = run_alerts(alerted, "webhook", "--hours", "80", "--yes")

    assert changed.returncode == 0, changed.stderr
    assert f"« {SILENCE} » : à mettre à jour (délai : 26 h → 80 h)" in plan.stdout
    assert f"« {SILENCE} » : mise à jour (délai : 26 h → 80 h)" in changed.stdout
    assert changed.stdout.count("inchangé") == 4
    after = read_automations(alerted)
    silence = after[SILENCE]
    assert silence.trigger.within == timedelta(hours=80)
    assert "depuis 80 heures" in silence.actions[0].body
    assert not silence.enabled
    assert {name: x.id for name, x in after.items()} == {name: x.id for name, x in before.items()}


def test_automations_of_the_version_before_are_updated_and_not_doubled(alerted, channel):
    run_alerts(alerted, "webhook", "--yes", address=channel.url)
    before = read_automations(alerted)
    by_flow = {"prefect.resource.role": "flow", "prefect.resource.name": [FLOW]}
    with in_environment(alerted.environment):
        for automation in before.values():
            automation.trigger.match_related = by_flow
            Automation(**automation.model_dump()).update()

    updated = run_alerts(alerted, "webhook", "--yes")

    assert updated.returncode == 0, updated.stderr
    assert updated.stdout.count("mise à jour (ce qui est surveillé)") == 4
    after = read_automations(alerted)
    assert {name: x.id for name, x in after.items()} == {name: x.id for name, x in before.items()}


def test_without_yes_nothing_is_made_and_no_address_is_asked(alerted):
    make_deployment(alerted, "jamais-vu")
    names = [name.replace("dbt", "dbt jamais-vu") for name in NAMES]

    shown = run_alerts(alerted, "slack", "--name", "jamais-vu")

    assert shown.returncode == 0, shown.stderr
    assert "Block « alertes-pipeline-dbt-jamais-vu » (slack) : à créer." in shown.stdout
    assert shown.stdout.count("à créer") == 5
    assert "ajoutez --yes" in shown.stdout
    assert read_automations(alerted, names) == {}


@pytest.mark.parametrize(
    ("sends_to", "address", "words"),
    [
        (
            "webhook",
            "https://example.com/b",
            "le block « alertes-pipeline-dbt » a une autre adresse",
        ),
        (
            "discord",
            "https://discord.com/api/webhooks/1234567890/AbCd-Ef_0123456789",
            "« Pipeline dbt : échec » envoie au block « alertes-pipeline-dbt » (Custom Webhook)",
        ),
    ],
)
def test_alerts_of_another_team_are_left_alone(alerted, channel, sends_to, address, words):
    run_alerts(alerted, "webhook", "--yes", "--replace", address=channel.url)
    before = read_automations(alerted)

    plan = run_alerts(alerted, sends_to, ALERT_ADDRESS=address)
    run = run_alerts(alerted, sends_to, "--yes", address=address)

    assert (plan.returncode, run.returncode) == (0, 2)
    for text in (plan.stdout, run.stderr):
        assert words in text
        assert "--name" in text
        assert "--replace" in text
        assert address not in text
    assert read_automations(alerted) == before
    told = end_a_run(alerted, FLOW, DEPLOYMENT, Failed(message="raison"))
    channel.wait_for(lambda text: told.name in text, seconds=20)


def test_explicit_word_sends_elsewhere(alerted, channel):
    run_alerts(alerted, "webhook", "--yes", "--replace", address=channel.url)
    with webhook() as other:
        moved = run_alerts(alerted, "webhook", "--yes", "--replace", address=other.url)
        told = end_a_run(alerted, FLOW, DEPLOYMENT, Failed(message="raison"))
        other.wait_for(lambda text: told.name in text, seconds=20)
    run_alerts(alerted, "webhook", "--yes", "--replace", address=channel.url)

    assert moved.returncode == 0, moved.stderr
    assert "« alertes-pipeline-dbt » (webhook) : mis à jour" in moved.stdout


def test_deployment_that_is_not_there_is_said(alerted):
    run = run_alerts(alerted, "slack", "--name", "pas-la", "--yes", address="x")

    assert run.returncode == 2
    assert "pas-la n'existe pas" in run.stderr
    assert "deploy.py" in run.stderr


def test_address_is_neither_shown_nor_readable_on_prefect(alerted, channel):
    made = run_alerts(alerted, "webhook", "--yes", address=channel.url)

    with prefect_client(alerted.environment) as client:
        block = client.read_block_document_by_name(
            "alertes-pipeline-dbt", "custom-webhook", include_secrets=False
        )
    assert made.returncode == 0, made.stderr
    assert channel.url not in made.stdout + made.stderr
    assert "secret-of-the-channel" not in block.model_dump_json()


def test_missing_address_is_said_with_the_two_ways_to_give_it(alerted):
    run = run_alerts(alerted, "slack", "--yes", address="\n")

    assert run.returncode == 2
    assert "entrée standard" in run.stderr
    assert "ALERT_ADDRESS" in run.stderr


def test_shell_without_a_prefect_that_lasts_is_refused(project):
    run = run_alerts(project, "slack", "--yes", PREFECT_API_URL="")

    assert run.returncode == 2
    assert "prefect server start" in run.stderr

"""deploy.py: what it deploys and where, what it leaves as it was, and what it refuses before."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLOUD_API_URL, temporary_settings

import deploy
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import PROJECT_ROOT
from pipeline import dbt_full_pipeline
from project import git, prefect_client, run_main
from stand_in_cloud import KEY, MANAGED_TEMPLATE, WORKSPACE, stand_in_cloud
from support.prefect_login import find_on_prefect

FLOW_AND_DEPLOYMENT = "pipeline-dbt-complet/pipeline-dbt-complet"
BY_PREFECT_CLOUD = "dbt_full_pipeline/pipeline-dbt-complet"
OF_TEAM_B = "pipeline-dbt-complet/equipe-b"
BARE_PREFECT_CLOUD = "dbt_full_pipeline/dbt_full_pipeline"
CLONE = "prefect.deployments.steps.git_clone"

PROFILES = """
active = "travail"

[profiles.travail]
PREFECT_API_URL = "{workspace_url}"
PREFECT_API_KEY = "{key}"

[profiles.prefect-cloud]
PREFECT_API_URL = "https://api.prefect.cloud/api/accounts/x/workspaces/y"
PREFECT_API_KEY = "pnu_other"
"""


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A folder with the files of the project in a git repository, `project`, pushed to `origin`."""
    root = tmp_path_factory.mktemp("committed")
    project = root / "project"
    for folder in ("prefect", "utilities"):
        shutil.copytree(
            PROJECT_ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (project / "prefect.yaml").write_bytes((PROJECT_ROOT / "prefect.yaml").read_bytes())
    (project / ".gitignore").write_text(".env\n__pycache__/\n")
    git(root, "init", "--quiet", "--bare", "--initial-branch=main", "origin")
    git(project, "init", "--quiet", "--initial-branch=main")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "x")
    git(project, "push", "--quiet", str(root / "origin"), "main")
    return root


class Checkout:
    """A clone of the project's files whose origin is a local repository named as on GitHub."""

    def __init__(self, committed: Path, root: Path, login: dict[str, str]) -> None:
        self.root = root / "project"
        shutil.copytree(committed, root, dirs_exist_ok=True)
        self.set_origin("https://x:ghp_token@github.com/equipe/projet.git")
        self.environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(root),
            **login,
            "DBT_BIGQUERY_DATASET_DEV": "p_dev",
            "DBT_BIGQUERY_DATASET_PROD": "p_prod",
            "DBT_TARGET": "dev",
            "GCP_PROJECT_ID": "mon-projet",
        }

    def git(self, *arguments):
        git(self.root, *arguments)

    def set_origin(self, url):
        """Have origin bear this address, and be the local repository."""
        self.git("config", "remote.origin.url", url)
        self.git("config", f"url.{self.root.parent / 'origin'}.insteadOf", url)

    def start(self, *arguments, **variables):
        """Start deploy.py, in a process group of its own; return the process."""
        return subprocess.Popen(
            [sys.executable, str(self.root / "utilities" / "deploy.py"), *arguments],
            env={k: v for k, v in (self.environment | variables).items() if v is not None},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, **variables):
        """Run deploy.py in a process of its own, to its end."""
        process = self.start(*arguments, **variables)
        output = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, *output)

    def deploy(self, *arguments, **variables):
        """Run deploy.py in this process, without `.env` and the profiles of Prefect in HOME."""
        environment = {k: v for k, v in (self.environment | variables).items() if v is not None}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deploy, "PROJECT_ROOT", self.root)
            return run_main(deploy.main, *arguments, environment=environment)


class PrefectServer:
    """The Prefect server behind both: what the tests put and find there."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def clear(self):
        with prefect_client(self.environment) as client:
            for name in (FLOW_AND_DEPLOYMENT, BY_PREFECT_CLOUD, BARE_PREFECT_CLOUD, OF_TEAM_B):
                if found := find_on_prefect(client.read_deployment_by_name, name):
                    client.delete_deployment(found.id)
            for name in ("pipeline-dbt", "other"):
                with suppress(ObjectNotFound):
                    client.delete_work_pool(name)

    def make_pool(self, kind, name="pipeline-dbt"):
        template = MANAGED_TEMPLATE if kind == "prefect:managed" else {}
        with prefect_client(self.environment) as client:
            client.create_work_pool(
                WorkPoolCreate(name=name, type=kind, base_job_template=template)
            )

    def make_deployment(self, name=FLOW_AND_DEPLOYMENT, **fields):
        """Make a deployment that runs daily, as somebody else would."""
        flow, deployment = name.split("/")
        daily = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 9 * * *"))
        with prefect_client(self.environment) as client:
            flow_id = client.create_flow_from_name(flow)
            client.create_deployment(flow_id, deployment, schedules=[daily], **fields)

    def find(self, name=FLOW_AND_DEPLOYMENT):
        with prefect_client(self.environment) as client:
            return find_on_prefect(client.read_deployment_by_name, name)


@pytest.fixture(scope="module")
def cloud(local_environment):
    with stand_in_cloud(local_environment) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def server_to_clear(local_environment):
    """The server, on which the tests of other files find nothing of these."""
    prefect_server = PrefectServer(local_environment)
    yield prefect_server
    prefect_server.clear()


@pytest.fixture
def prefect_server(server_to_clear):
    """A server without the deployment, and without its work pool."""
    server_to_clear.clear()
    return server_to_clear


@pytest.fixture
def on_cloud(committed, tmp_path, cloud):
    """A shell logged in to Prefect Cloud, in a checkout."""
    login = {"PREFECT_API_URL": cloud.workspace_url, "PREFECT_API_KEY": KEY}
    return Checkout(committed, tmp_path, {"PREFECT_CLOUD_API_URL": cloud.url, **login})


@pytest.fixture
def on_own_server(committed, tmp_path, local_environment):
    """A shell that uses a Prefect server of its own, in a checkout."""
    return Checkout(committed, tmp_path, login_of_server(local_environment))


def login_of_server(environment):
    """Return the variables by which a shell uses the server of this environment."""
    return {name: environment[name] for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")}


@pytest.fixture(scope="module")
def deployed_on_cloud(committed, tmp_path_factory, cloud, server_to_clear):
    """A first deployment by a shell whose login is in a profile; the run, and what it made."""
    checkout = Checkout(
        committed, tmp_path_factory.mktemp("cloud"), {"PREFECT_CLOUD_API_URL": cloud.url}
    )
    profiles = Path(checkout.environment["HOME"]) / ".prefect" / "profiles.toml"
    profiles.parent.mkdir()
    profiles.write_text(PROFILES.format(workspace_url=cloud.workspace_url, key=KEY))
    server_to_clear.clear()
    server_to_clear.make_pool("prefect:managed")
    run = checkout.run("--yes")
    return SimpleNamespace(run=run, made=server_to_clear.find())


@pytest.fixture(scope="module")
def deployed_by_team_b(committed, tmp_path_factory, local_environment, server_to_clear):
    """A first deployment on the server of another team, from a branch, with an `.env` and a cron.

    `before` and `after` are the other team's deployment.
    """
    checkout = Checkout(
        committed, tmp_path_factory.mktemp("team-b"), login_of_server(local_environment)
    )
    checkout.git("switch", "-qc", "feature/x")
    config = checkout.root / "prefect.yaml"
    # The schedule that stands there in comments takes the place of the other.
    text, commented = re.subn(r"^ {6}# (-| ) ", r"      \1 ", config.read_text(), flags=re.M)
    assert commented == 4
    config.write_text(re.sub(r"^ {6}- cron: .0 9.*\n.*timezone.*\n", "", text, flags=re.M))
    checkout.git("commit", "-qam", "Every fifteen minutes, what is new")
    checkout.git("push", "-q", "origin", "feature/x")
    (checkout.root / ".env").write_text(
        "GCP_REGION=EU\nDBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT=a@b.iam.gserviceaccount.com\n"
    )
    server_to_clear.clear()
    server_to_clear.make_pool("process")
    server_to_clear.make_deployment(**OF_TEAM_A)
    # This one, made by prefect-cloud, is the other team's too: if its schedule counted as a second
    # one of ours, deploy.py would refuse.
    server_to_clear.make_deployment(BARE_PREFECT_CLOUD, **OF_TEAM_A)
    before = server_to_clear.find()
    run = checkout.run("--yes", "--name", "equipe-b", "--cron", "*/10 * * * *")
    made, after = server_to_clear.find(OF_TEAM_B), server_to_clear.find()
    assert run.returncode == 0, run.stdout + run.stderr
    return SimpleNamespace(run=run, made=made, before=before, after=after)


REFERENCE = "{{ prefect.blocks.secret.mot-de-passe }}"
KEPT = {"tags": ["équipe"], "parameters": {"exclude": "tag:lent"}}
SETTINGS = {
    "DBT_TARGET": "prod",
    "DBT_BIGQUERY_DATASET_DEV": "p_dev",
    "DBT_BIGQUERY_DATASET_PROD": "p_prod",
    "GCP_PROJECT_ID": "mon-projet",
}
OURS = {
    "pull_steps": [{CLONE: {"repository": "git@github.com:equipe/projet", "branch": "main"}}],
    "work_pool_name": "pipeline-dbt",
}
OF_TEAM_A = OURS | {
    "pull_steps": [{CLONE: {"repository": "https://x:ghp_a@github.com/a/p.git", "branch": "main"}}]
}


@pytest.mark.slow
def test_prefect_cloud_gets_the_time_zone_the_schedule_one_run_at_a_time_and_the_form(
    deployed_on_cloud,
):
    run, made = deployed_on_cloud.run, deployed_on_cloud.made

    assert run.returncode == 0, run.stdout + run.stderr
    (schedule,) = made.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 9 * * *", "Europe/Paris")
    assert made.global_concurrency_limit.limit == 1
    form = dbt_full_pipeline.parameters.properties
    assert list(made.parameter_openapi_schema["properties"]) == list(form)
    assert made.work_pool_name == "pipeline-dbt"
    assert made.job_variables == {"env": SETTINGS, "image": "prefecthq/prefect-client:3-python3.11"}
    assert made.entrypoint == "prefect/pipeline.py:dbt_full_pipeline"
    clone = made.pull_steps[0][CLONE]
    assert clone["repository"] == "https://github.com/equipe/projet.git"
    assert clone["branch"] == "main"
    install = made.pull_steps[1]["prefect.deployments.steps.run_shell_script"]
    assert "requirements.txt" in install["script"]
    assert f"Prefect Cloud, workspace {WORKSPACE}, work pool pipeline-dbt (prefect:managed)" in (
        run.stdout
    )


@pytest.mark.slow
def test_login_is_that_of_the_active_profile(deployed_on_cloud):
    assert deployed_on_cloud.run.returncode == 0, deployed_on_cloud.run.stderr
    assert f"Prefect Cloud, workspace {WORKSPACE}" in deployed_on_cloud.run.stdout
    assert deployed_on_cloud.made


@pytest.mark.slow
def test_no_secret_is_shown_or_deployed(deployed_on_cloud):
    run, made = deployed_on_cloud.run, deployed_on_cloud.made.model_dump_json()

    for secret in (KEY, "ghp_token"):
        assert secret not in run.stdout + run.stderr + made


@pytest.mark.slow
def test_server_of_ones_own_gets_the_same_from_any_branch_without_an_image(deployed_by_team_b):
    made = deployed_by_team_b.made

    assert made.schedules[0].schedule.timezone == "Europe/Paris"
    assert made.job_variables == {"env": {**SETTINGS, "GCP_REGION": "EU"}}
    assert made.pull_steps[0][CLONE]["branch"] == "feature/x"
    assert "le serveur Prefect http://127.0.0.1" in deployed_by_team_b.run.stdout


@pytest.mark.slow
def test_two_teams_on_one_prefect_each_have_their_deployment(deployed_by_team_b):
    clone = deployed_by_team_b.made.pull_steps[0][CLONE]

    assert clone["repository"] == "https://github.com/equipe/projet.git"
    assert deployed_by_team_b.after == deployed_by_team_b.before


@pytest.mark.slow
def test_settings_come_from_the_env_file_too_but_the_account_of_this_laptop(deployed_by_team_b):
    output = deployed_by_team_b.run.stdout

    assert "GCP_REGION=EU" in output
    assert "gserviceaccount" not in output + deployed_by_team_b.made.model_dump_json()


@pytest.mark.slow
def test_cron_of_the_command_line_is_that_of_a_first_deployment(deployed_by_team_b):
    (schedule,) = deployed_by_team_b.made.schedules

    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("*/10 * * * *", "Europe/Paris")


@pytest.mark.slow
def test_schedule_of_what_is_new_stands_in_the_file(deployed_by_team_b):
    (schedule,) = deployed_by_team_b.made.schedules

    assert schedule.parameters == {"only_new": True}
    assert "Horaire : */10 * * * * (Europe/Paris), only_new=True" in deployed_by_team_b.run.stdout


@pytest.mark.slow
def test_second_deployment_leaves_what_was_set_on_the_first(on_own_server, prefect_server):
    prefect_server.make_pool("process")
    env = {**SETTINGS, "DBT_THREADS": "2", "MY_MODELS_READ_IT": REFERENCE}
    variables = {"env": env, "working_dir": "/x"}
    prefect_server.make_deployment(**OURS, **KEPT, job_variables=variables)
    with prefect_client(prefect_server.environment) as client:
        first = prefect_server.find()
        client.update_deployment_schedule(
            first.id,
            first.schedules[0].id,
            active=False,
            schedule=CronSchedule(cron="30 6 * * 1-5", timezone="America/Montreal"),
        )

    run = on_own_server.deploy("--yes", GCP_REGION="EU")

    assert run.returncode == 0, run.stdout + run.stderr
    second = prefect_server.find()
    (schedule,) = second.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone, schedule.active) == (
        *("30 6 * * 1-5", "America/Montreal"),
        False,
    )
    assert second.job_variables == {
        # Without DBT_THREADS: a setting that has gone from `.env` has to go from the deployment, or
        # its old value would still count there.
        "env": {**SETTINGS, "GCP_REGION": "EU", "MY_MODELS_READ_IT": REFERENCE},
        "working_dir": "/x",
    }
    assert {"tags": second.tags, "parameters": second.parameters} == KEPT


@pytest.mark.slow
def test_killed_as_it_deploys_it_has_lost_nothing_that_was_set(on_own_server, prefect_server):
    prefect_server.make_pool("process")
    variables = {"env": {**SETTINGS, "MY_MODELS_READ_IT": REFERENCE}, "working_dir": "/x"}
    prefect_server.make_deployment(**OURS, **KEPT, job_variables=variables)
    on_own_server.git("switch", "-qc", "next")
    on_own_server.git("push", "-q", "origin", "next")

    process = on_own_server.start("--yes")
    deadline = time.monotonic() + 60
    while prefect_server.find().pull_steps[0][CLONE]["branch"] != "next":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()

    made = prefect_server.find()
    assert process.returncode == -signal.SIGKILL
    assert {"tags": made.tags, "parameters": made.parameters} == KEPT
    assert made.job_variables == variables


def test_plan_says_what_would_change_and_shows_no_value_that_is_not_a_setting(
    on_own_server, prefect_server
):
    prefect_server.make_pool("process")
    env = {**SETTINGS, "DBT_THREADS": "2", "MY_PASSWORD": "s3cret"}
    prefect_server.make_deployment(**OURS, job_variables={"env": env})
    on_own_server.git("switch", "-qc", "next")
    on_own_server.git("push", "-q", "origin", "next")

    run = on_own_server.deploy("--cron", "0 6 * * *", GCP_REGION="EU")

    url = "https://github.com/equipe/projet.git"
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[1:-2] == [
        "Work pool : pipeline-dbt (inchangé)",
        f"Code : git@github.com:equipe/projet, branche main → {url}, branche next",
        "Horaire : 0 9 * * * (UTC) → 0 6 * * * (Europe/Paris)",
        "Réglages :",
        "  DBT_BIGQUERY_DATASET_DEV : p_dev (inchangé)",
        "  DBT_BIGQUERY_DATASET_PROD : p_prod (inchangé)",
        "  DBT_TARGET : prod (inchangé)",
        "  DBT_THREADS : 2 → rien",
        "  GCP_PROJECT_ID : mon-projet (inchangé)",
        "  GCP_REGION : rien → EU",
        "  MY_PASSWORD : inchangé",
    ]


def test_deployment_of_another_team_is_left_alone(on_own_server, prefect_server):
    prefect_server.make_pool("process")
    env = {"GCP_PROJECT_ID": "projet-de-a", "DBT_BIGQUERY_DATASET_PROD": "a_prod"}
    prefect_server.make_deployment(**OF_TEAM_A, job_variables={"env": env})
    before = prefect_server.find()

    plan, run = on_own_server.deploy(), on_own_server.deploy("--yes")

    assert (plan.returncode, run.returncode) == (0, 2)
    for text in (plan.stdout, run.stderr):
        for words in (
            "  - dépôt : https://github.com/a/p.git → https://github.com/equipe/projet.git",
            "  - DBT_BIGQUERY_DATASET_PROD : a_prod → p_prod",
            "  - GCP_PROJECT_ID : projet-de-a → mon-projet",
            "--name",
            "--replace",
        ):
            assert words in text
    assert "ghp_a" not in plan.stdout + run.stdout + run.stderr
    assert prefect_server.find() == before


@pytest.mark.slow
def test_explicit_word_takes_the_place_of_another_team_s_deployment_its_pool_and_its_schedule(
    on_own_server, prefect_server
):
    prefect_server.make_pool("process")
    prefect_server.make_pool("process", "other")
    theirs = OF_TEAM_A | {"work_pool_name": "other", "job_variables": {"working_dir": "/a"}}
    prefect_server.make_deployment(**theirs)

    run = on_own_server.deploy("--yes", "--replace", "--cron", "30 6 * * 1-5")

    assert run.returncode == 0, run.stdout + run.stderr
    made = prefect_server.find()
    assert made.pull_steps[0][CLONE]["repository"] == "https://github.com/equipe/projet.git"
    # Without working_dir: what was said to another pool means nothing to this one.
    assert (made.work_pool_name, made.job_variables) == ("pipeline-dbt", {"env": SETTINGS})
    (schedule,) = made.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("30 6 * * 1-5", "Europe/Paris")


@pytest.mark.parametrize("name", ["", "a/b", "Équipe", "-a", "a b"])
def test_name_that_is_not_one_is_refused(capsys, name):
    with pytest.raises(SystemExit, match=r"^2$"):
        deploy.main([f"--name={name}"])

    assert "--name" in capsys.readouterr().err


@pytest.mark.slow
def test_image_holds_the_code_when_the_comments_of_the_file_are_followed(
    on_own_server, prefect_server
):
    prefect_server.make_pool("process")
    prefect_server.make_deployment(**OURS)
    path = on_own_server.root / "prefect.yaml"
    comments, _, rest = path.read_text().partition("\npull:\n")
    step = re.search(r"^#(  - prefect.*set_working_directory:)\n#(.*)$", comments, re.MULTILINE)
    after = rest[rest.index("\ndeployments:") :].replace("# image:", "image:")
    path.write_text(f"pull:\n{step[1]}\n{step[2]}\n{after}")
    on_own_server.git("commit", "-qam", "image")
    on_own_server.git("push", "-q", "origin", "main")

    run = on_own_server.deploy("--yes")

    assert run.returncode == 0, run.stdout + run.stderr
    made = prefect_server.find()
    assert made.pull_steps == [
        {"prefect.deployments.steps.set_working_directory": {"directory": "/app"}}
    ]
    assert made.job_variables["image"].endswith("/pipeline-dbt:COMMIT")


@pytest.mark.slow
def test_without_yes_all_is_shown_and_nothing_done(on_cloud, prefect_server):
    prefect_server.make_pool("prefect:managed")

    run = on_cloud.deploy()

    assert run.returncode == 0, run.stderr
    assert "https://github.com/equipe/projet.git, branche main" in run.stdout
    assert "0 9 * * * (Europe/Paris)" in run.stdout
    assert "DBT_BIGQUERY_DATASET_PROD=p_prod" in run.stdout
    assert "prefect --no-prompt deploy --name pipeline-dbt-complet" in run.stdout
    assert "ajoutez --yes" in run.stdout
    assert prefect_server.find() is None


@pytest.mark.parametrize(
    ("shell", "kind"), [("on_cloud", "prefect:managed"), ("on_own_server", "process")]
)
def test_missing_work_pool_is_said_with_the_command_and_not_made(
    request, prefect_server, shell, kind
):
    run = request.getfixturevalue(shell).deploy("--yes")

    assert run.returncode == 2
    assert f"prefect work-pool create --type {kind} pipeline-dbt" in run.stderr
    with prefect_client(prefect_server.environment) as client, pytest.raises(ObjectNotFound):
        client.read_work_pool("pipeline-dbt")


@pytest.mark.slow
def test_schedule_that_prefect_cloud_made_is_not_doubled(on_cloud, prefect_server):
    prefect_server.make_pool("prefect:managed")
    prefect_server.make_deployment(BY_PREFECT_CLOUD)

    run = on_cloud.deploy("--yes")

    assert run.returncode == 2
    assert f"uvx prefect-cloud unschedule {BY_PREFECT_CLOUD}" in run.stderr
    assert prefect_server.find() is None


@pytest.mark.slow
def test_deployment_that_fails_gives_its_exit_code(on_own_server, prefect_server):
    prefect_server.make_pool("prefect-agent")

    run = on_own_server.deploy("--yes")

    assert run.returncode == 1
    assert "La commande a échoué (code 1)" in run.stderr
    assert prefect_server.find() is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"PREFECT_API_KEY": "pnu_revoked"},
        {
            "PREFECT_CLOUD_API_URL": "http://127.0.0.1:1/api",
            "PREFECT_API_URL": "http://127.0.0.1:1/api/accounts/a/workspaces/w",
        },
    ],
    ids=["key refused", "no answer"],
)
def test_prefect_cloud_that_cannot_be_asked_is_said(on_cloud, variables):
    run = on_cloud.deploy("--yes", **variables)

    assert run.returncode == 3
    assert run.stderr.startswith("Prefect Cloud")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("prepare", "variables", "words"),
    [
        (lambda c: (c.root / "new.py").write_text(""), {}, ["new.py", "git commit"]),
        (lambda c: c.git("commit", "--allow-empty", "-qm", "y"), {}, ["git push origin main"]),
        (lambda c: c.git("switch", "-qc", "never-pushed"), {}, ["git push origin never-pushed"]),
        (lambda c: c.git("switch", "-q", "--detach"), {}, ["git switch"]),
        (lambda c: c.set_origin("/x"), {}, ["(/x)", "https"]),
        (None, {"DBT_BIGQUERY_DATASET_DEV": None}, ["DBT_BIGQUERY_DATASET_DEV"]),
        (None, {"DBT_BIGQUERY_DATASET_PROD": "p_dev"}, ["DBT_BIGQUERY_DATASET_PROD"]),
        (None, {"PREFECT_API_KEY": None}, ["prefect-cloud login", "PREFECT_API_KEY"]),
        (None, {"PREFECT_API_URL": None}, ["prefect-cloud login", "prefect server start"]),
    ],
    ids=["uncommitted", "unpushed", "new branch", "detached", "local", "missing", "equal",
         "no key", "no Prefect"],
)  # fmt: skip
def test_what_would_fail_later_is_refused_now(on_cloud, prepare, variables, words):
    if prepare:
        prepare(on_cloud)

    run = on_cloud.deploy("--yes", **variables)

    assert run.returncode == 2
    assert all(word in run.stderr for word in words), run.stderr
    assert run.stdout == ""


def test_files_that_stand_in_the_way_are_named(on_cloud):
    for name in ("clé.sql", *"abcdef"):
        (on_cloud.root / name).write_text("")
    (on_cloud.root / "prefect" / "pipeline.py").write_text("")

    run = on_cloud.deploy()

    assert run.returncode == 2
    assert "(prefect/pipeline.py, a, b, c, clé.sql et 3 de plus)" in run.stderr


@pytest.mark.parametrize(
    "cron", ["", "9h", "0 25 * * *", "* * * *", "0 9 * * * *", "0 9 31 2 *", "R 9 * * *"]
)
def test_invalid_cron_is_refused(capsys, cron):
    assert deploy.main(["--cron", cron]) == 2
    assert "--cron" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "on_prefect_cloud", "on_a_server"),
    [
        ("https://github.com/o/r.git", "https://github.com/o/r.git", "https://github.com/o/r.git"),
        ("https://x:s3cret@github.com/o/r", "https://github.com/o/r", "https://github.com/o/r"),
        ("https://s3cret@github.com/o/r", "https://github.com/o/r", "https://github.com/o/r"),
        ("git@github.com:o/r.git", "https://github.com/o/r.git", "git@github.com:o/r.git"),
        ("ssh://git@gitlab.com/o/r.git", "https://gitlab.com/o/r.git",
         "ssh://git@gitlab.com/o/r.git"),
        ("/srv/r.git", None, "/srv/r.git"),
    ],
)  # fmt: skip
def test_repository_is_named_as_prefect_can_clone_it(url, on_prefect_cloud, on_a_server):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        assert deploy.make_clone_address(url) == on_a_server

    cloud = {PREFECT_CLOUD_API_URL: "https://c/api", PREFECT_API_URL: "https://c/api/accounts/a"}
    with temporary_settings(cloud):
        if on_prefect_cloud:
            assert deploy.make_clone_address(url) == on_prefect_cloud
        else:
            with pytest.raises(ConfigurationError, match=url):
                deploy.make_clone_address(url)

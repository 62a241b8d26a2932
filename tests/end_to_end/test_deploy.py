"""The deployment on Prefect Cloud: exact commands, and what is refused before them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deploy
from pipeline_settings import PROJECT_ROOT
from stand_in_cloud import KEY, WORKSPACE, StandInCloud, stand_in_cloud

# In the place of prefect-cloud: it fails when it is asked for the command FAILING.
RECORDER = """#!{python}
import json, os, sys
login = [os.environ.get(name) for name in ("PREFECT_API_URL", "PREFECT_API_KEY")]
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps([sys.argv[1:], login]) + "\\n")
sys.exit(4 if sys.argv[1] == os.environ.get("FAILING") else 0)
"""

PROFILES = """
active = "travail"

[profiles.travail]
PREFECT_API_URL = "{workspace_url}"
PREFECT_API_KEY = "{key}"

[profiles.prefect-cloud]
PREFECT_API_URL = "https://api.prefect.cloud/api/accounts/x/workspaces/y"
PREFECT_API_KEY = "pnu_other"
"""


class Checkout:
    """A clone of the project's files whose origin is a local repository named as on GitHub."""

    def __init__(self, root: Path, cloud: StandInCloud) -> None:
        self.root, self.record = root / "project", root / "record"
        self.git("init", "--quiet", "--bare", "--initial-branch=main", "origin", cwd=root)
        self.root.mkdir()
        for folder in ("prefect", "utilities"):
            (self.root / folder).mkdir()
            for path in (PROJECT_ROOT / folder).glob("*.py"):
                (self.root / folder / path.name).write_bytes(path.read_bytes())
        (self.root / ".gitignore").write_text(".env\n__pycache__/\n")
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.email", "a@b")
        self.git("config", "user.name", "a")
        self.git("remote", "add", "origin", "https://github.com/equipe/projet.git")
        self.git(
            "config", f"url.{root / 'origin'}.insteadOf", "https://github.com/equipe/projet.git"
        )
        self.git("add", ".")
        self.git("commit", "--quiet", "-m", "x")
        self.git("push", "--quiet", "origin", "main")
        bin_dir = root / "bin"
        bin_dir.mkdir()
        (bin_dir / "prefect-cloud").write_text(RECORDER.format(python=sys.executable))
        (bin_dir / "prefect-cloud").chmod(0o755)
        self.environment = {
            "PATH": f"{bin_dir}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(root),
            "TZ": "Europe/Paris",
            "RECORD": str(self.record),
            "PREFECT_CLOUD_API_URL": cloud.url,
            "PREFECT_API_URL": cloud.workspace_url,
            "PREFECT_API_KEY": KEY,
            "DBT_BIGQUERY_DATASET_DEV": "p_dev",
            "DBT_BIGQUERY_DATASET_PROD": "p_prod",
            "DBT_TARGET": "dev",
            "GCP_PROJECT_ID": "mon-projet",
        }

    def git(self, *arguments, cwd=None):
        subprocess.run(["git", *arguments], cwd=cwd or self.root, check=True, capture_output=True)

    def deploy(self, *arguments, **variables):
        return subprocess.run(
            [sys.executable, str(self.root / "utilities" / "deploy.py"), *arguments],
            env={k: v for k, v in (self.environment | variables).items() if v is not None},
            cwd="/",
            capture_output=True,
            text=True,
        )

    def read_record(self):
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [json.loads(line) for line in lines]

    def recorded(self):
        return [arguments for arguments, _ in self.read_record()]

    def recorded_logins(self):
        return [login for _, login in self.read_record()]


@pytest.fixture(scope="module")
def cloud():
    with stand_in_cloud() as cloud:
        yield cloud


@pytest.fixture
def checkout(tmp_path, cloud):
    return Checkout(tmp_path, cloud)


DEPLOY = [
    "deploy",
    "prefect/pipeline.py:dbt_full_pipeline",
    *("--from", "equipe/projet/tree/main", "--with-requirements", "requirements.txt"),
    *("--with-python", "3.11"),
    *("--env", "PREFECT_GCP_CREDENTIALS_BLOCK=sa-key"),
    *("--env", "DBT_TARGET=prod"),
    *("--env", "DBT_BIGQUERY_DATASET_DEV=p_dev"),
    *("--env", "DBT_BIGQUERY_DATASET_PROD=p_prod"),
    *("--env", "DBT_PROFILE_NAME=projet_m2_bi"),
    *("--env", "DBT_BIGQUERY_DATASET_RAW=raw"),
    *("--env", "GCP_PROJECT_ID=mon-projet"),
    *("--env", "DBT_THREADS=8"),
    *("--env", "DBT_RETRIES=2"),
    *("--name", "pipeline-dbt-complet"),
]


def test_yes_deploys_then_schedules_with_everything(checkout):
    run = checkout.deploy("--yes", "--cron", "30 6 * * 1-5")

    assert run.returncode == 0, run.stderr
    assert checkout.recorded() == [
        DEPLOY,
        ["schedule", "dbt_full_pipeline/pipeline-dbt-complet", "30 6 * * 1-5"],
    ]


def test_without_yes_commands_are_shown_and_not_run(checkout):
    run = checkout.deploy()

    assert run.returncode == 0, run.stderr
    assert "prefect-cloud deploy prefect/pipeline.py:dbt_full_pipeline" in run.stdout
    assert "prefect-cloud schedule dbt_full_pipeline/pipeline-dbt-complet '0 9 * * *'" in run.stdout
    assert "Europe/Paris" in run.stdout
    assert checkout.recorded() == []


def test_no_secret_is_shown_or_passed(checkout):
    run = checkout.deploy("--yes")

    assert KEY not in run.stdout + run.stderr + str(checkout.recorded())


def test_commands_get_the_login_of_the_active_profile_and_the_workspace_is_said(checkout, cloud):
    profiles = Path(checkout.environment["HOME"]) / ".prefect" / "profiles.toml"
    profiles.parent.mkdir()
    profiles.write_text(PROFILES.format(workspace_url=cloud.workspace_url, key=KEY))

    run = checkout.deploy("--yes", PREFECT_API_URL=None, PREFECT_API_KEY=None)

    assert checkout.recorded_logins() == [[cloud.workspace_url, KEY]] * 2, run.stderr
    assert f"Prefect Cloud, workspace {WORKSPACE}" in run.stdout


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
def test_prefect_cloud_that_cannot_be_asked_is_said(checkout, variables):
    run = checkout.deploy("--yes", **variables)

    assert run.returncode == 3
    assert run.stderr.startswith("Prefect Cloud")
    assert "Traceback" not in run.stderr
    assert checkout.recorded() == []


def test_settings_come_from_the_env_file_too(checkout):
    (checkout.root / ".env").write_text("GCP_REGION=EU\n")

    checkout.deploy("--yes")

    assert "GCP_REGION=EU" in checkout.recorded()[0]


def test_account_that_this_laptop_acts_as_is_not_that_of_production(checkout):
    account = "pipeline-dbt@mon-projet.iam.gserviceaccount.com"

    checkout.deploy("--yes", DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT=account)

    assert checkout.recorded()[0] == DEPLOY


def test_failed_deploy_does_not_schedule(checkout):
    run = checkout.deploy("--yes", FAILING="deploy")

    assert run.returncode == 4
    assert len(checkout.recorded()) == 1
    assert "sans horaire" not in run.stderr


def test_failed_schedule_is_said_with_the_command_to_repeat(checkout):
    run = checkout.deploy("--yes", "--cron", "30 6 * * 1-5", FAILING="schedule")

    assert run.returncode == 4
    assert "sans horaire" in run.stderr
    assert ".venv/bin/python utilities/deploy.py --yes --cron '30 6 * * 1-5'" in run.stderr


def test_uvx_is_used_when_prefect_cloud_is_not_on_the_path(checkout):
    bin_dir = Path(checkout.environment["PATH"].split(":")[0])
    (bin_dir / "prefect-cloud").unlink()

    run = checkout.deploy(PATH=f"{bin_dir}:/usr/bin:/bin")

    assert "uvx prefect-cloud deploy" in run.stdout, run.stderr


@pytest.mark.parametrize(
    ("prepare", "variables", "words"),
    [
        (lambda c: (c.root / "new.py").write_text(""), {}, ["new.py", "git commit"]),
        (lambda c: c.git("commit", "--allow-empty", "-qm", "y"), {}, ["git push origin main"]),
        (lambda c: c.git("switch", "-qc", "never-pushed"), {}, ["git push origin never-pushed"]),
        (lambda c: c.git("switch", "-qc", "feature/x"), {}, ["feature/x", "renommez"]),
        (lambda c: c.git("switch", "-q", "--detach"), {}, ["git switch"]),
        (None, {"DBT_BIGQUERY_DATASET_DEV": None}, ["DBT_BIGQUERY_DATASET_DEV"]),
        (None, {"DBT_BIGQUERY_DATASET_PROD": "p_dev"}, ["DBT_BIGQUERY_DATASET_PROD"]),
        (None, {"PREFECT_API_KEY": None}, ["prefect-cloud login", "PREFECT_API_KEY"]),
        (None, {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, ["prefect-cloud login"]),
    ],
    ids=["uncommitted", "unpushed", "new branch", "slash", "detached", "missing", "equal",
         "no key", "not the cloud"],
)  # fmt: skip
def test_what_would_fail_later_is_refused_now(checkout, prepare, variables, words):
    if prepare:
        prepare(checkout)

    run = checkout.deploy("--yes", **variables)

    assert run.returncode == 2
    assert all(word in run.stderr for word in words), run.stderr
    assert checkout.recorded() == []


def test_files_that_stand_in_the_way_are_named(checkout):
    for name in ("clé.sql", *"abcdef"):
        (checkout.root / name).write_text("")
    (checkout.root / "prefect" / "pipeline.py").write_text("")

    run = checkout.deploy()

    assert run.returncode == 2
    assert "(prefect/pipeline.py, a, b, c, clé.sql et 3 de plus)" in run.stderr


@pytest.mark.parametrize("cron", ["", "9h", "0 25 * * *", "* * * *", "0 9 * * * * * *"])
def test_invalid_cron_is_refused(capsys, cron):
    assert deploy.main(["--cron", cron]) == 2
    assert "--cron" in capsys.readouterr().err


def test_invalid_cron_is_refused_before_anything_runs(checkout):
    run = checkout.deploy("--yes", "--cron", "9h")

    assert run.returncode == 2
    assert checkout.recorded() == []


def test_repository_that_is_not_on_github_is_refused(checkout):
    checkout.git("remote", "set-url", "origin", os.fspath(checkout.root.parent / "origin"))

    run = checkout.deploy("--yes")

    assert run.returncode == 2
    assert "GitHub" in run.stderr


def test_token_in_the_address_of_the_repository_is_not_shown(checkout):
    checkout.git("remote", "set-url", "origin", "https://x:ghp_token@example.com/o/r.git")
    checkout.git(
        "config",
        f"url.{checkout.root.parent / 'origin'}.insteadOf",
        "https://x:ghp_token@example.com/o/r.git",
    )

    run = checkout.deploy("--yes")

    assert run.returncode == 2
    assert "https://example.com/o/r.git" in run.stderr
    assert "ghp_token" not in run.stdout + run.stderr

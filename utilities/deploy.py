"""Deploys the pipeline, in production, on the Prefect that the shell is logged in to.

Checks what would fail later, shows what would change, and runs `prefect deploy` with prefect.yaml.
What has been set on the deployment since (schedule, variables, tags) stays; one that clones another
repository, or writes elsewhere, is left alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from bi_pipeline.command_line import make_french_parser, say_errors
from bi_pipeline.dbt_runs.git_repository import run_git
from bi_pipeline.errors import ConfigurationError
from bi_pipeline.settings import PROJECT_ROOT, PipelineSettings, load_environment
from support.deployment_plan import (
    describe_plan,
    fill_in,
    find_clone,
    find_differences_of_owner,
    is_same_repository,
)
from support.prefect_login import (
    DEPLOYMENT,
    FLOWS,
    describe_prefect,
    find_on_prefect,
    is_prefect_cloud,
    parse_deployment_name,
)

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

PREFECT_DEPLOY = Path(__file__).parent / "support" / "prefect_deploy.py"
FLOW, FLOW_OF_PREFECT_CLOUD = FLOWS
# Prefect changes the Python of a managed pool's default image with time: one day the runs would
# have one that no test has seen.
MANAGED_IMAGE = "prefecthq/prefect-client:3-python3.11"
FILES_NAMED = 5


def find_pushed_source() -> dict[str, str]:
    """Return the variables of prefect.yaml that say where the code is, once sure that it is there.

    Raises ConfigurationError for uncommitted or unpushed work.
    """
    branch = run_git(PROJECT_ROOT, "branch", "--show-current")
    if not branch:
        raise ConfigurationError(
            "HEAD est détachée : placez-vous sur une branche (`git switch main`)."
        )
    # Without core.quotePath=false, git prints accents in file names as numbers (\303\251): the user
    # would not recognise the files.
    changes = run_git(
        PROJECT_ROOT, "-c", "core.quotePath=false", "status", "--porcelain"
    ).splitlines()
    if changes:
        raise ConfigurationError(
            f"Des modifications ne sont pas enregistrées dans git ({_name_files(changes)}) : "
            "Prefect clone le dépôt. Lancez `git add` et `git commit`, puis `git push` ; ce qui "
            "ne doit pas y aller a sa place dans .gitignore."
        )
    pushed = run_git(
        PROJECT_ROOT,
        *("ls-remote", "origin", f"refs/heads/{branch}"),
        remedy="Vérifiez l'adresse du dépôt origin (`git remote -v`), et que vous y avez accès.",
    )
    if pushed.split("\t")[0] != run_git(PROJECT_ROOT, "rev-parse", "HEAD"):
        raise ConfigurationError(
            f"La branche {branch} n'est pas à jour dans le dépôt origin : lancez "
            f"`git push origin {branch}`."
        )
    repository = make_clone_address(run_git(PROJECT_ROOT, "config", "--get", "remote.origin.url"))
    return {"GIT_REPOSITORY": repository, "GIT_BRANCH": branch}


def make_clone_address(url: str) -> str:
    """Return the address from which Prefect clones: no token, and no SSH key on Prefect Cloud."""
    # A token may stand before the host. It would be stored in the deployment, where all who use
    # this Prefect can read it.
    url = re.sub(r"^(https?)://[^@/]+@", r"\1://", url)
    if is_prefect_cloud():
        url = re.sub(r"^(?:ssh://)?git@([\w.-]+)[:/]", r"https://\1/", url)
        if not url.startswith("https://"):
            raise ConfigurationError(
                f"Prefect Cloud ne peut pas lire le dépôt origin ({url}) : il faut une adresse "
                "https (`git remote set-url origin https://…`)."
            )
    return url


def _name_files(changes: list[str]) -> str:
    """Return the files of the first lines of `git status --porcelain`, and how many remain."""
    names = ", ".join(change.split(maxsplit=1)[1] for change in changes[:FILES_NAMED])
    remaining = len(changes) - FILES_NAMED
    return f"{names} et {remaining} de plus" if remaining > 0 else names


def read_deployment_variables() -> dict[str, str]:
    """Return the settings of this shell and of `.env` that have a value, for production.

    The account that this laptop acts as is left out: it is dev's. Raises ConfigurationError with
    all that is missing or wrong.
    """
    production = {"DBT_TARGET": "prod", "DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT": ""}
    environment = load_environment() | production
    PipelineSettings.from_mapping(environment)
    return {
        name: environment[name]
        for name in PipelineSettings.list_variables()
        if environment.get(name)
    }


def check_cron(cron: str) -> None:
    """Raise ConfigurationError if a cron has not five fields, or no date at all.

    Prefect takes a sixth field, of seconds: the pipeline would run 60 times.
    """
    # Prefect accepts « 0 0 30 2 * », whose date never comes: the pipeline would never run. Only
    # get_dates refuses it, which the client's CronSchedule does not have.
    from prefect.server.schemas.schedules import CronSchedule

    has_a_date = False
    with suppress(ValueError):
        has_a_date = bool(asyncio.run(CronSchedule(cron=cron).get_dates(n=1)))
    if len(cron.split()) != 5 or not has_a_date:
        raise ConfigurationError(
            f"--cron « {cron} » est incorrect : il faut cinq champs (minute, heure, jour, mois, "
            'jour de la semaine), par exemple "0 9 * * *", et une date qui existe.'
        )


def read_login() -> dict[str, str]:
    """Return the environment variables that log a command in as this shell is.

    Raises ConfigurationError on Prefect Cloud without a key.
    """
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    if is_prefect_cloud() and not api.key:
        raise ConfigurationError(
            "Pas de connexion à Prefect Cloud : lancez `uvx prefect-cloud login`, ou définissez "
            "PREFECT_API_URL et PREFECT_API_KEY."
        )
    secrets = {"PREFECT_API_KEY": api.key, "PREFECT_API_AUTH_STRING": api.auth_string}
    return {"PREFECT_API_URL": api.url or ""} | {
        name: secret.get_secret_value() for name, secret in secrets.items() if secret
    }


def read_pool_type(client: SyncPrefectClient, name: str) -> str:
    """Return the type of the work pool; ConfigurationError, with the command, without one."""
    pool = find_on_prefect(client.read_work_pool, name)
    if pool is None:
        wanted = "prefect:managed" if is_prefect_cloud() else "process"
        raise ConfigurationError(
            f"Le work pool {name} n'existe pas : lancez "
            f"`.venv/bin/prefect work-pool create --type {wanted} {name}`."
        )
    return pool.type


def refuse_a_second_schedule(client: SyncPrefectClient, name: str, repository: str) -> None:
    """Raise ConfigurationError if a deployment of prefect-cloud would run the pipeline as well.

    One that clones another repository is another team's, and does not count.
    """
    # prefect-cloud names a deployment after the function unless told otherwise: looked for under
    # `name` alone, it would not be found, and two schedules would run the pipeline.
    for name_there in (f"{FLOW_OF_PREFECT_CLOUD}/{name}", "/".join([FLOW_OF_PREFECT_CLOUD] * 2)):
        other = find_on_prefect(client.read_deployment_by_name, name_there)
        if other is None or not any(schedule.active for schedule in other.schedules):
            continue
        cloned = find_clone(other.pull_steps).get("repository", repository)
        if is_same_repository(cloned, repository):
            raise ConfigurationError(
                f"Le déploiement {name_there}, fait par prefect-cloud, a son propre horaire : la "
                "pipeline tournerait deux fois. Lancez "
                f"`uvx prefect-cloud unschedule {name_there}`."
            )


def merge_job_variables(
    pool: dict[str, Any],
    kind: str,
    settings: dict[str, str],
    before: DeploymentResponse | None = None,
) -> dict[str, Any]:
    """Return the job variables of the deployment; the first of these that gives one decides.

    1. In `env`, the settings of this shell.
    2. The work pool in prefect.yaml.
    3. What was set on the deployment `before`: its `env`, but for settings that this shell no
       longer has, and the others if it is on the same pool, as those of another mean nothing here.
    4. On a managed pool, the image whose Python is that of the tests.
    """
    written = pool.get("job_variables") or {}
    was_set: dict[str, Any] = before.job_variables if before else {}
    ours = set(PipelineSettings.list_variables())
    own = {name: value for name, value in (was_set.get("env") or {}).items() if name not in ours}
    return {
        **({"image": MANAGED_IMAGE} if kind == "prefect:managed" else {}),
        **(was_set if before and before.work_pool_name == pool["name"] else {}),
        **written,
        "env": own | (written.get("env") or {}) | settings,
    }


def set_schedule(deployment: dict[str, Any], cron: str | None, *, first: bool) -> None:
    """Give the deployment of prefect.yaml this schedule; without one, only the first keeps its own.

    `prefect deploy` leaves alone what its file does not name.
    """
    if cron:
        deployment["schedules"] = [deployment["schedules"][0] | {"cron": cron}]
    elif not first:
        del deployment["schedules"]


def make_deploy_command(name: str) -> list[str]:
    """Return the command that deploys under this name."""
    return ["prefect", "--no-prompt", "deploy", "--name", name]


def run_prefect_deploy(
    config: dict[str, Any], environment: dict[str, str], kept: dict[str, Any]
) -> int:
    """Run `prefect deploy` with this content of prefect.yaml; return its exit code.

    An existing deployment gets the fields `kept` as they are. If they were in the file, Prefect
    would store the value of a secret block instead of its reference; if they were sent in a second
    request, they would be lost when this tool is killed before.
    """
    command = [sys.executable, str(PREFECT_DEPLOY)]
    command += make_deploy_command(config["deployments"][0]["name"])[1:]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        return subprocess.run(
            [*command, "--prefect-file", str(path)],
            input=json.dumps(kept),
            text=True,
            cwd=PROJECT_ROOT,
            env={**os.environ, **environment},
            check=False,
        ).returncode


def describe_refusal(name: str, differences: list[str]) -> str:
    """Return, in French, why the deployment of this name is left alone, and what to do."""
    return "\n".join(
        [
            f"le déploiement {name} qui est là semble être d'une autre équipe.",
            *(f"  - {difference}" for difference in differences),
            "Donnez un autre nom au vôtre (--name NOM), ou prenez sa place (--yes --replace).",
        ]
    )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_french_parser(
        "deploy.py",
        "Déploie la pipeline, en production, sur le Prefect auquel ce shell est connecté : "
        "Prefect Cloud ou un serveur à vous. Sans --yes, montre ce qui serait fait.",
    )
    parser.add_argument("--yes", action="store_true", help="déployer")
    parser.add_argument(
        "--name",
        type=parse_deployment_name,
        default=DEPLOYMENT,
        help=f"nom du déploiement (par défaut : {DEPLOYMENT}) : à plusieurs équipes sur un même "
        "Prefect, chacune a le sien",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="avec --yes : prendre la place du déploiement de ce nom, même s'il clone un autre "
        "dépôt ou écrit ailleurs",
    )
    parser.add_argument(
        "--cron",
        help="horaire, à l'heure de Paris (par défaut : celui du déploiement, ou chaque jour à "
        '9 h, "0 9 * * *", la première fois)',
    )
    return parser.parse_args(argv)


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Show or run the deployment; return the exit code."""
    from prefect import get_client

    arguments = parse_arguments(argv)
    if arguments.cron is not None:
        check_cron(arguments.cron)
    variables = read_deployment_variables()
    source, credentials = find_pushed_source(), read_login()
    where = describe_prefect(must_last=True)
    config = yaml.safe_load((PROJECT_ROOT / "prefect.yaml").read_text("utf-8"))
    deployment = config["deployments"][0]
    deployment["name"] = name = arguments.name
    pool = deployment["work_pool"]
    with get_client(sync_client=True) as client:
        kind = read_pool_type(client, pool["name"])
        refuse_a_second_schedule(client, name, source["GIT_REPOSITORY"])
        before = find_on_prefect(client.read_deployment_by_name, f"{FLOW}/{name}")
    # `merged` has to be made first. Once the next line has written job variables into `pool`, they
    # count as those of prefect.yaml, and the image set on the deployment would be lost.
    merged = merge_job_variables(pool, kind, variables, before)
    pool["job_variables"] = merge_job_variables(pool, kind, variables)
    set_schedule(deployment, arguments.cron, first=before is None)
    wanted = deployment | {"pull_steps": fill_in(config["pull"], source), "job_variables": merged}
    print(f"Déploiement {name} dans {where}, work pool {pool['name']} ({kind}).")
    print("\n".join(describe_plan(before, wanted)))
    print(f"Commande : {shlex.join(make_deploy_command(name))}", flush=True)
    taken = [] if before is None or arguments.replace else find_differences_of_owner(before, wanted)
    if not arguments.yes:
        remedy = describe_refusal(name, taken) if taken else "ajoutez --yes."
        print(f"Rien n'a été lancé : {remedy}")
        return 0
    if taken:
        raise ConfigurationError(f"Rien n'a été lancé : {describe_refusal(name, taken)}")
    kept = {}
    if before:
        kept = before.model_dump(include={"parameters", "tags"}) | {"job_variables": merged}
    exit_code = run_prefect_deploy(config, credentials | source, kept)
    if exit_code:
        print(f"La commande a échoué (code {exit_code}).", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    raise SystemExit(main())

"""Composes, shows and runs the prefect-cloud commands that deploy the pipeline.

They go together and in this order: a deploy replaces the whole environment and drops the
schedule.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from command_line import french_parser, say_errors
from pipeline_errors import ConfigurationError
from pipeline_settings import PROJECT_ROOT, PipelineSettings, load_environment

DEPLOYMENT = "pipeline-dbt-complet"
# prefect-cloud names the flow after its function.
FLOW_AND_DEPLOYMENT = f"dbt_full_pipeline/{DEPLOYMENT}"


def git(*arguments: str) -> str:
    """Return what git prints; ConfigurationError with its message if it fails."""
    process = subprocess.run(
        ["git", *arguments], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise ConfigurationError(f"git {arguments[0]} a échoué : {process.stderr.strip()}")
    return process.stdout.strip()


def pushed_source() -> str:
    """Return OWNER/REPO/tree/BRANCH, once sure that GitHub has what is here.

    Raises ConfigurationError for uncommitted or unpushed work, a branch name that prefect-cloud
    mangles, or a remote that is not on GitHub.
    """
    branch = git("branch", "--show-current")
    if not branch:
        raise ConfigurationError(
            "HEAD est détachée : placez-vous sur une branche (`git switch main`)."
        )
    if "/" in branch:
        raise ConfigurationError(
            f"prefect-cloud ne sait pas lire une branche dont le nom a une barre ({branch}) : "
            "renommez-la, ou déployez depuis main."
        )
    if git("status", "--porcelain"):
        raise ConfigurationError(
            "Des modifications ne sont pas enregistrées dans git : Prefect Cloud lit le code sur "
            "GitHub. Lancez `git commit`, puis `git push`."
        )
    pushed = git("ls-remote", "origin", f"refs/heads/{branch}").split("\t")[0]
    if pushed != git("rev-parse", "HEAD"):
        raise ConfigurationError(
            f"La branche {branch} n'est pas à jour sur GitHub : lancez `git push origin {branch}`."
        )
    url = git("config", "--get", "remote.origin.url")
    match = re.fullmatch(
        r"(?:https://|git@|ssh://git@)github\.com[/:]([\w.-]+/[\w.-]+?)(\.git)?/?", url
    )
    if not match:
        raise ConfigurationError(
            f"Le dépôt origin ({url}) n'est pas sur GitHub : prefect-cloud le veut."
        )
    return f"{match[1]}/tree/{branch}"


def deployment_variables() -> dict[str, str]:
    """Return every setting that has a value, for production.

    Raises ConfigurationError with all that is missing or wrong.
    """
    return PipelineSettings.from_mapping(load_environment() | {"DBT_TARGET": "prod"}).to_mapping()


def check_cron(cron: str) -> None:
    """Raise ConfigurationError if Prefect would refuse this cron."""
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron)
    except ValueError:
        raise ConfigurationError(
            f"--cron « {cron} » est incorrect : il faut cinq champs (minute, heure, jour, mois, "
            'jour de la semaine), par exemple "0 9 * * *".'
        ) from None


def check_login() -> None:
    """Raise ConfigurationError unless this shell is logged in to Prefect Cloud.

    prefect-cloud itself would open a browser and wait.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    on_cloud = (settings.api.url or "").startswith(settings.cloud.api_url)
    if not on_cloud or not settings.api.key:
        raise ConfigurationError(
            "Pas de connexion à Prefect Cloud : lancez `uvx prefect-cloud login`, ou définissez "
            "PREFECT_API_URL et PREFECT_API_KEY."
        )


def find_prefect_cloud() -> list[str]:
    """Return the command that starts prefect-cloud; ConfigurationError if there is none."""
    if shutil.which("prefect-cloud"):
        return ["prefect-cloud"]
    uvx = shutil.which("uvx", path=str(Path(sys.executable).parent)) or shutil.which("uvx")
    if uvx:
        return [uvx, "prefect-cloud"]
    raise ConfigurationError(
        "prefect-cloud est introuvable : lancez `pip install uv`, qui donne uvx."
    )


def compose(
    program: list[str], source: str, variables: dict[str, str], cron: str
) -> list[list[str]]:
    """Return the commands, in order, as lists of arguments."""
    environment = [word for item in variables.items() for word in ("--env", "=".join(item))]
    return [
        [
            *program,
            *("deploy", "prefect/pipeline.py:dbt_full_pipeline"),
            *("--from", source, "--with-requirements", "requirements.txt"),
            *environment,
            *("--name", DEPLOYMENT),
        ],
        [*program, "schedule", FLOW_AND_DEPLOYMENT, cron],
    ]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = french_parser(
        "deploy.py",
        "Déploie la pipeline sur Prefect Cloud, en production. Sans --yes, montre les commandes "
        "sans les lancer.",
    )
    parser.add_argument("--yes", action="store_true", help="lancer les commandes")
    parser.add_argument(
        "--cron", default="0 9 * * *", help='horaire (par défaut : "0 9 * * *", chaque jour à 9 h)'
    )
    return parser.parse_args(argv)


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Show or run the commands; return the exit code, that of the first which fails."""
    import tzlocal

    arguments = parse_arguments(argv)
    check_cron(arguments.cron)
    variables = deployment_variables()
    source = pushed_source()
    check_login()
    commands = compose(find_prefect_cloud(), source, variables, arguments.cron)
    print(f"Horaire lu dans le fuseau de cette machine : {tzlocal.get_localzone_name()}.")
    for command in commands:
        print(shlex.join(command), flush=True)
        if arguments.yes:
            exit_code = subprocess.run(command, cwd=PROJECT_ROOT, check=False).returncode
            if exit_code:
                print(f"La commande a échoué (code {exit_code}).", file=sys.stderr)
                return exit_code
    if not arguments.yes:
        print("Rien n'a été lancé : ajoutez --yes.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

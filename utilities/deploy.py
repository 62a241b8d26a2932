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
from prefect_login import where_prefect_is

DEPLOYMENT = "pipeline-dbt-complet"
# prefect-cloud names the flow after its function.
FLOW_AND_DEPLOYMENT = f"dbt_full_pipeline/{DEPLOYMENT}"
# The one version on which our tests run and that prefect-cloud offers: its default is 3.12.
PYTHON_VERSION = "3.11"
FILES_NAMED = 5


def git(*arguments: str) -> str:
    """Return what git prints; ConfigurationError with its message if it fails."""
    process = subprocess.run(
        # Without the option, accents in file names are printed as numbers.
        ["git", "-c", "core.quotePath=false", *arguments],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
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
    changes = git("status", "--porcelain").splitlines()
    if changes:
        raise ConfigurationError(
            f"Des modifications ne sont pas enregistrées dans git ({_name_files(changes)}) : "
            "Prefect Cloud lit le code sur GitHub. Lancez `git add` et `git commit`, puis "
            "`git push` ; ce qui ne doit pas y aller a sa place dans .gitignore."
        )
    pushed = git("ls-remote", "origin", f"refs/heads/{branch}").split("\t")[0]
    if pushed != git("rev-parse", "HEAD"):
        raise ConfigurationError(
            f"La branche {branch} n'est pas à jour sur GitHub : lancez `git push origin {branch}`."
        )
    url = git("config", "--get", "remote.origin.url")
    match = re.fullmatch(
        r"(?:https://(?:[^@/]+@)?|git@|ssh://git@)github\.com[/:]([\w.-]+/[\w.-]+?)(\.git)?/?", url
    )
    if not match:
        # A token may stand before the host.
        shown = re.sub("//[^@/]+@", "//", url)
        raise ConfigurationError(
            f"Le dépôt origin ({shown}) n'est pas sur GitHub : prefect-cloud le veut."
        )
    return f"{match[1]}/tree/{branch}"


def _name_files(changes: list[str]) -> str:
    """Return the files of the first lines of `git status --porcelain`, and how many remain."""
    names = ", ".join(change.split(maxsplit=1)[1] for change in changes[:FILES_NAMED])
    remaining = len(changes) - FILES_NAMED
    return f"{names} et {remaining} de plus" if remaining > 0 else names


def deployment_variables() -> dict[str, str]:
    """Return every setting that has a value, for production.

    But the account that this laptop acts as, which is dev's. Raises ConfigurationError with
    all that is missing or wrong.
    """
    production = {"DBT_TARGET": "prod", "DBT_BIGQUERY_IMPERSONATE_SERVICE_ACCOUNT": ""}
    return PipelineSettings.from_mapping(load_environment() | production).to_mapping()


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


def cloud_login() -> dict[str, str]:
    """Return the environment variables that log a command in as this shell is.

    prefect-cloud knows nothing of Prefect's active profile: it would follow one of its own, or
    open a browser and wait. Raises ConfigurationError without a login to Prefect Cloud.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    api_url, key = settings.api.url or "", settings.api.key
    if not api_url.startswith(settings.cloud.api_url) or not key:
        raise ConfigurationError(
            "Pas de connexion à Prefect Cloud : lancez `uvx prefect-cloud login`, ou définissez "
            "PREFECT_API_URL et PREFECT_API_KEY."
        )
    return {"PREFECT_API_URL": api_url, "PREFECT_API_KEY": key.get_secret_value()}


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
            *("--with-python", PYTHON_VERSION),
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


def run_all(commands: list[list[str]], login: dict[str, str], cron: str) -> int:
    """Show and run the commands until one fails; return the exit code of the last one run."""
    for command in commands:
        print(shlex.join(command), flush=True)
        exit_code = subprocess.run(
            command, cwd=PROJECT_ROOT, env=load_environment() | login, check=False
        ).returncode
        if exit_code:
            print(f"La commande a échoué (code {exit_code}).", file=sys.stderr)
            if command is commands[-1]:
                again = shlex.join(["utilities/deploy.py", "--yes", "--cron", cron])
                print(
                    "La pipeline est déployée, mais sans horaire : rien ne la lancera. Relancez "
                    f"`.venv/bin/python {again}`.",
                    file=sys.stderr,
                )
            return exit_code
    return 0


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Show or run the commands; return the exit code, that of the first which fails."""
    import tzlocal

    arguments = parse_arguments(argv)
    check_cron(arguments.cron)
    variables = deployment_variables()
    source = pushed_source()
    login = cloud_login()
    commands = compose(find_prefect_cloud(), source, variables, arguments.cron)
    print(f"Déploiement dans {where_prefect_is()}.")
    print(f"Horaire lu dans le fuseau de cette machine : {tzlocal.get_localzone_name()}.")
    if arguments.yes:
        return run_all(commands, login, arguments.cron)
    print("\n".join(shlex.join(command) for command in commands))
    print("Rien n'a été lancé : ajoutez --yes.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

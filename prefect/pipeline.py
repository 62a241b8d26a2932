"""The pipeline: `dbt run`, then `dbt test`, on BigQuery, with credentials from Prefect.

The same file runs on a laptop (`python prefect/pipeline.py`) and as a deployment.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from prefect import flow, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed, get_state_exception
from pydantic import Field

from dbt_command import packages_are_missing, run_dbt
from dbt_connection import DbtConnection, build_connection, load_credentials
from dbt_report import forget_last_results, read_report
from pipeline_settings import (
    ConfigurationError,
    PipelineSettings,
    Target,
    explain_unreachable_api,
    load_settings,
)

EXIT_SUCCESS, EXIT_DBT, EXIT_CONFIGURATION, EXIT_INFRASTRUCTURE = 0, 1, 2, 3

Command = Literal["run", "test", "seed", "snapshot", "source freshness", "build", "deps"]

DESCRIPTIONS = {
    "target": "Cible : dev ou prod. Par défaut, celle des réglages (DBT_TARGET).",
    "select": "Nœuds à traiter, comme --select de dbt. Par défaut, tous.",
    "exclude": "Nœuds à laisser de côté, comme --exclude de dbt.",
    "full_refresh": "Reconstruire les tables incrémentales en entier.",
    "commands": "Commandes dbt, dans l'ordre. Par défaut, run puis test.",
}

TARGET_WARNING = (
    "DBT_TARGET n'est défini nulle part : ce déploiement écrit dans dev ({dataset}). Pour la "
    "production : `prefect variable set dbt_target prod`, ou DBT_TARGET=prod dans "
    "l'environnement du déploiement."
)


class DbtCommandError(Exception):
    """A dbt command failed; its text is the whole message."""


@dataclass(frozen=True)
class Selection:
    """What dbt takes up: the options that several of its commands share."""

    select: str | None = None
    exclude: str | None = None
    full_refresh: bool = False

    def arguments(self, command: Command) -> list[str]:
        """Return the words of the dbt command, with the options that it takes."""
        words = command.split()
        if command == "deps":
            return words
        # With `=`, a value that starts with a dash stays a value.
        words += [f"--select={self.select}"] if self.select else []
        words += [f"--exclude={self.exclude}"] if self.exclude else []
        if self.full_refresh and command in ("run", "seed", "build"):
            words.append("--full-refresh")
        return words


def show(text: str) -> None:
    """Show text as it is: on the terminal of a laptop, in the log of a deployment."""
    if runtime.deployment.id is None:
        print(text, flush=True)
    else:
        get_run_logger().info("\n%s", text)


def show_banner(settings: PipelineSettings) -> None:
    """Show the configuration, before anything runs."""
    line = "=" * 70
    show(
        f"{line}\nCONFIGURATION DBT PROFILE\n{line}\n"
        f"Block GCP        : {settings.credentials_block}\n"
        f"Target           : {settings.target}\n"
        f"Dataset utilisé  : {settings.dataset}\n"
        f"Nom du profil    : {settings.profile_name}\n"
        f"{line}\nDémarrage de la pipeline..."
    )


def find_warnings(settings: PipelineSettings) -> list[str]:
    """Log and return what the owner of a deployment has to know of its settings."""
    if runtime.deployment.id is None or not settings.target_is_a_default:
        return []
    warning = TARGET_WARNING.format(dataset=settings.dataset)
    get_run_logger().warning(warning)
    return [warning]


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    # A retry that never happens: without it, Prefect logs the failure a second time,
    # with an empty traceback.
    retries=1,
    retry_condition_fn=lambda *_: False,
)
def run_dbt_command(
    arguments: list[str],
    connection: DbtConnection,
    settings: PipelineSettings,
    warnings: list[str],
) -> Any:
    """Return the DbtReport of the command, or a Failed state that says what failed."""
    forget_last_results()
    command = " ".join(word for word in arguments if not word.startswith("-"))
    report = read_report(command, run_dbt(arguments, connection, settings))
    create_markdown_artifact(
        key=f"dbt-{command.replace(' ', '-')}-{settings.target}",
        markdown=report.markdown(settings, warnings),
    )
    if report.succeeded:
        return report
    return Failed(message=report.failure_message, data=DbtCommandError(report.failure_message))


@flow(name="pipeline-dbt-complet", description="dbt run puis dbt test sur BigQuery.")
def dbt_full_pipeline(
    target: Target | None = Field(None, description=DESCRIPTIONS["target"]),
    select: str | None = Field(None, description=DESCRIPTIONS["select"]),
    exclude: str | None = Field(None, description=DESCRIPTIONS["exclude"]),
    full_refresh: bool = Field(False, description=DESCRIPTIONS["full_refresh"]),
    commands: Annotated[list[Command], Field(min_length=1)] = Field(
        ["run", "test"], description=DESCRIPTIONS["commands"]
    ),
) -> State[Any]:
    """Load the configuration, then run the dbt commands until one fails."""
    try:
        settings = load_settings(target)
        show_banner(settings)
        connection = build_connection(load_credentials(settings.credentials_block), settings)
    except ConfigurationError as error:
        return Failed(message=str(error), data=error)
    warnings = find_warnings(settings)
    if packages_are_missing() and "deps" not in commands:
        commands = ["deps", *commands]

    selection = Selection(select, exclude, full_refresh)
    summary = ""
    for command in commands:
        dbt_task = run_dbt_command.with_options(name=f"dbt {command}")
        arguments = selection.arguments(command)
        state = dbt_task(arguments, connection, settings, warnings, return_state=True)
        if not state.is_completed():
            return Failed(message=state.message, data=get_state_exception(state))
        summary = summary or state.result().summary(settings)
    if summary:
        show(summary)
    return Completed(message=f"{', '.join(f'dbt {command}' for command in commands)} : réussi.")


def parse_arguments(argv: list[str] | None) -> dict[str, Any]:
    """Return the parameters of the flow that the command line gives."""
    parser = argparse.ArgumentParser(
        prog="pipeline.py",
        description="Lance dbt run puis dbt test sur BigQuery.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--target", choices=get_args(Target), help=DESCRIPTIONS["target"])
    parser.add_argument("--select", help=DESCRIPTIONS["select"])
    parser.add_argument("--exclude", help=DESCRIPTIONS["exclude"])
    parser.add_argument("--full-refresh", action="store_true", help=DESCRIPTIONS["full_refresh"])
    parser.add_argument(
        "--commands",
        nargs="+",
        choices=get_args(Command),
        metavar="COMMANDE",
        help=f"{DESCRIPTIONS['commands']} Possibles : {', '.join(get_args(Command))}.",
    )
    return vars(parser.parse_args(argv))


def main(argv: list[str] | None = None) -> int:
    """Run the pipeline; return the exit code, after the reason if it failed."""
    parameters = parse_arguments(argv)
    try:
        state = dbt_full_pipeline(**parameters, return_state=True)
    except Exception as error:
        message = explain_unreachable_api(error)
        if message is None:
            raise
        print(message, file=sys.stderr)
        return EXIT_INFRASTRUCTURE
    if state.is_completed():
        return EXIT_SUCCESS
    print(state.message, file=sys.stderr)
    failure = get_state_exception(state)
    return EXIT_CONFIGURATION if isinstance(failure, ConfigurationError) else EXIT_DBT


if __name__ == "__main__":
    raise SystemExit(main())

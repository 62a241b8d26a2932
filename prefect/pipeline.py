"""The pipeline: `dbt run`, then `dbt test`, on BigQuery, with credentials from Prefect.

The same file runs on a laptop (`python prefect/pipeline.py`) and as a deployment.
"""

from __future__ import annotations

import sys
from typing import Any

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed, get_state_exception

from dbt_command import run_dbt
from dbt_connection import DbtConnection, build_connection, load_credentials
from dbt_report import forget_last_results, read_report
from pipeline_settings import (
    ConfigurationError,
    PipelineSettings,
    explain_unreachable_api,
    load_settings,
)

EXIT_SUCCESS, EXIT_DBT, EXIT_CONFIGURATION, EXIT_INFRASTRUCTURE = 0, 1, 2, 3


class DbtCommandError(Exception):
    """A dbt command failed; its text is the whole message."""


def show_banner(settings: PipelineSettings) -> None:
    """Show the configuration: on the terminal of a laptop, in the log of a deployment."""
    line = "=" * 70
    show(
        f"{line}\nCONFIGURATION DBT PROFILE\n{line}\n"
        f"Block GCP        : {settings.credentials_block}\n"
        f"Target           : {settings.target}\n"
        f"Dataset utilisé  : {settings.dataset}\n"
        f"Nom du profil    : {settings.profile_name}\n"
        f"{line}\nDémarrage de la pipeline..."
    )


def show(text: str) -> None:
    """Show text with no prefix of the logger, wherever people read this run."""
    if runtime.deployment.id is None:
        print(text, flush=True)
    else:
        get_run_logger().info("\n%s", text)


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    # A retry that never happens: without it, Prefect logs the failure a second time,
    # with an empty traceback.
    retries=1,
    retry_condition_fn=lambda *_: False,
)
def run_dbt_command(command: str, connection: DbtConnection, settings: PipelineSettings) -> Any:
    """Return the DbtReport of `dbt COMMAND`, or a Failed state that says what failed."""
    forget_last_results()
    report = read_report(command, run_dbt([command], connection, settings))
    if report.succeeded:
        return report
    message = report.failure_message()
    return Failed(message=message, data=DbtCommandError(message))


@flow(name="pipeline-dbt-complet")
def dbt_full_pipeline() -> State[Any]:
    """Load the configuration, then run `dbt run` and, if it succeeds, `dbt test`."""
    try:
        settings = load_settings()
        show_banner(settings)
        connection = build_connection(load_credentials(settings.credentials_block), settings)
    except ConfigurationError as error:
        return Failed(message=str(error), data=error)

    reports = []
    for command in ("run", "test"):
        dbt_task = run_dbt_command.with_options(name=f"dbt {command}")
        state = dbt_task(command, connection, settings, return_state=True)
        if not state.is_completed():
            return Failed(message=state.message, data=get_state_exception(state))
        reports.append(state.result())
    show(reports[0].summary(settings))
    return Completed(message="dbt run et dbt test ont réussi.")


def main() -> int:
    """Run the pipeline; return the exit code, after the reason if it failed."""
    try:
        state = dbt_full_pipeline(return_state=True)
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

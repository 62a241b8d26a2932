"""The pipeline: `dbt run`, then `dbt test`, on BigQuery, with credentials from Prefect.

The same file runs on a laptop (`python prefect/pipeline.py`) and as a deployment.
"""

from __future__ import annotations

import atexit
import gc
import logging
import re
import signal
import sys
import time
from typing import Annotated, Any, Literal

from command_line import end_at_once, refuse_unreadable_env_file, say_errors
from warm_dbt import start_dbt_server

if __name__ == "__main__":
    # Unless `command &` has it ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)
    refuse_unreadable_env_file()
    # While the rest is imported.
    start_dbt_server()

from prefect import flow, get_client, runtime, task
from prefect.artifacts import Artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import State, TaskRun
from prefect.events.worker import EventsWorker
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Failed, get_state_exception
from prefect.tasks import exponential_backoff
from pydantic import Field

from dbt_artifact import add_to_history, dump_history, load_history, render_markdown
from dbt_command import DBT_PROJECT_DIR, DbtRunner, open_dbt
from dbt_connection import build_connection, import_libraries, load_credentials
from dbt_options import DbtOptions
from dbt_packages import packages_are_missing
from dbt_report import (
    failure_message,
    idle_message,
    success_message,
    summary,
    warning_message,
)
from dbt_result import WITH_WARNINGS, DbtResult
from dbt_state import with_deferral_to_prod, with_state_of_prod
from git_repository import current_commit
from google_tokens import fresh_token
from local_server import ensure_prefect_server
from pipeline_arguments import parse_arguments
from pipeline_errors import ConfigurationError, DbtError, PassingFaultError, PipelineError, explain
from pipeline_settings import (
    GOOGLE_ENDPOINT,
    PROJECT_ROOT,
    PipelineSettings,
    load_settings,
    misspelt_variables,
)
from run_ending import Stop, end_soon_after_a_signal, take_hangup_for_termination
from service_watch import say_what_stops_answering

EXIT_TERMINATED = 128 + signal.SIGTERM

# After a passing fault: about 5 s, then 10 s, then 20 s…, each more or less by half.
RETRY_SECONDS = 5
RETRY_JITTER = 0.5

DRAIN_SECONDS = 5

Command = Literal[
    "run",
    "test",
    "seed",
    "snapshot",
    "source freshness",
    "build",
    "deps",
    "retry",
    "clone",
    "compile",
    "docs generate",
    "run-operation",
]

# One or more words of dbt's selection syntax.
Nodes = Annotated[str, Field(pattern=r"\S")]

TARGET_WARNING = (
    "DBT_TARGET n'est défini nulle part : ce déploiement écrit dans dev ({dataset}). Pour la "
    "production : `prefect variable set dbt_target prod`, ou DBT_TARGET=prod dans "
    "l'environnement du déploiement."
)

UNBUILT_WARNING = (
    "%s a changé, et aucune commande de cette exécution ne le construit : c'est celui de prod qui "
    "est lu. Ajoutez seed ou snapshot à --commands, ou lancez build."
)


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
    """Log and return what the owner of the settings has to know of them."""
    warnings = misspelt_variables()
    if runtime.deployment.id is not None and settings.target_is_a_default:
        warnings.append(TARGET_WARNING.format(dataset=settings.dataset))
    for warning in warnings:
        get_run_logger().warning(warning)
    return warnings


def complete_commands(commands: list[Command], macro: str | None) -> list[str]:
    """Return the dbt commands to run, the installation of missing packages first."""
    if "run-operation" in commands and not macro:
        raise ConfigurationError("run-operation : il manque la macro à lancer.")
    if macro and "run-operation" not in commands:
        raise ConfigurationError(f"La macro {macro} est pour run-operation, qui n'est pas demandé.")
    words: list[str] = list(commands)
    if packages_are_missing(DBT_PROJECT_DIR) and "deps" not in words:
        words.insert(0, "deps")
    return [f"{word} {macro}" if word == "run-operation" else word for word in words]


def hit_a_passing_fault(_task: Any, _task_run: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect should run the dbt command again."""
    return isinstance(state.data, PassingFaultError)


def is_not_an_echo(record: logging.LogRecord) -> bool:
    """Whether a record says more than the failed state that Prefect reports anyway."""
    return not record.getMessage().startswith("Task run failed with")


def publish(result: DbtResult, dbt: DbtRunner, warnings: list[str]) -> None:
    """Put the page of a command in Prefect, as an artifact; what prevents it is a warning.

    Its key has the project and the dataset: another team may be on the same Prefect. Its metadata
    has the history, in numbers.
    """
    place = f"{dbt.connection.project}-{dbt.settings.dataset}"
    key = re.sub("[^a-z0-9]+", "-", f"dbt-{result.command}-{place}".lower())
    try:
        previous: Any = Artifact.get(key)
        history = add_to_history(
            load_history(previous.metadata_ if previous else None),
            result,
            commit=current_commit(PROJECT_ROOT),
            ended_at=time.time(),
        )
        page = ArtifactCreate(
            key=key,
            type="markdown",
            data=render_markdown(result, dbt.settings, warnings, history),
            metadata_=dump_history(history),
            flow_run_id=runtime.flow_run.id,
            task_run_id=runtime.task_run.id,
        )
        with get_client(sync_client=True) as client:
            client.create_artifact(page)
    except Exception as error:
        # What dbt did stands, whatever becomes of the page.
        get_run_logger().warning(
            "L'artefact %s n'a pas pu être écrit : %s", key, explain(error) or error
        )


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_jitter_factor=RETRY_JITTER,
    retry_condition_fn=hit_a_passing_fault,
)
def run_dbt_command(command: str, options: DbtOptions, dbt: DbtRunner, warnings: list[str]) -> Any:
    """Return the DbtResult of the command, or a Failed state that says what failed."""
    attempt, attempts = runtime.task_run.run_count, dbt.settings.retries + 1
    try:
        result = dbt.run(command, options, resume=attempt > 1)
    except PipelineError as error:
        return Failed(message=str(error), data=error)
    tried_again = result.hit_a_passing_fault and attempt < attempts
    if not tried_again and not result.did_nothing:
        publish(result, dbt, warnings)
    if result.succeeded:
        return result
    message = failure_message(result)
    if not result.hit_a_passing_fault:
        return Failed(message=message, data=DbtError(message))
    message += f"\nPanne passagère de BigQuery ou du réseau, essai {attempt} sur {attempts}"
    if tried_again:
        get_run_logger().warning("%s : ce qui a échoué sera refait.", message)
    else:
        message += " : relancez plus tard. Si cela dure, vérifiez le réseau."
    return Failed(message=message, data=PassingFaultError(message))


# Its results and its retries are its own affair, whatever Prefect's settings of the shell say.
@flow(
    name="pipeline-dbt-complet",
    description="dbt run puis dbt test sur BigQuery.",
    retries=0,
    persist_result=False,
)
def dbt_full_pipeline(
    target: Literal["dev", "prod"] | None = None,
    select: Nodes | None = None,
    exclude: Nodes | None = None,
    selector: Nodes | None = None,
    changed_since: Nodes | None = None,
    full_refresh: bool = False,
    empty: bool = False,
    vars: dict[str, Any] | None = None,
    event_time_start: str | None = None,
    event_time_end: str | None = None,
    threads: int | None = None,
    commands: Annotated[list[Command], Field(min_length=1)] = ["run", "test"],  # noqa: B006
    macro: Annotated[str, Field(pattern=r"^\w+(\.\w+)?$")] | None = None,
) -> State[Any]:
    """Load the configuration, then run the dbt commands until one fails.

    The descriptions are those of Prefect's form and of the command line. prefect-cloud makes
    the form from this file alone: types and defaults that come from elsewhere are lost.

    Args:
        target: Cible : dev ou prod. Par défaut, celle des réglages (DBT_TARGET).
        select: Nœuds à traiter, comme --select de dbt. Par défaut, tous.
        exclude: Nœuds à laisser de côté, comme --exclude de dbt.
        selector: Sélection de selectors.yml, comme --selector de dbt.
        changed_since: Ne traiter que ce qui diffère de ce commit, et ce qui en dépend ; lire le reste en prod. DBT_ARTIFACTS_DIR : que ce qui diffère de la dernière exécution de prod.
        full_refresh: Reconstruire les tables incrémentales en entier.
        empty: Construire sans lire de données, comme --empty de dbt.
        vars: Variables du projet dbt, comme --vars de dbt.
        event_time_start: Début des lots (UTC, AAAA-MM-JJ), comme --event-time-start de dbt.
        event_time_end: Fin des lots, exclue (UTC, AAAA-MM-JJ), comme --event-time-end de dbt.
        threads: Nœuds traités en même temps. Par défaut, DBT_THREADS.
        commands: Commandes dbt, dans l'ordre. Par défaut, run puis test.
        macro: Macro que lance run-operation.
    """  # noqa: E501 - Prefect takes one line a parameter
    start_dbt_server()
    take_hangup_for_termination()
    logging.getLogger("prefect.task_runs").addFilter(is_not_an_echo)
    stop = Stop()
    with stop.when_cancelled():
        try:
            words = complete_commands(commands, macro)
            options = DbtOptions(
                select=select,
                exclude=exclude,
                selector=selector,
                full_refresh=full_refresh,
                empty=empty,
                vars=vars,
                event_time_start=event_time_start,
                event_time_end=event_time_end,
                threads=threads,
            )
            options.check(words)
            settings = load_settings(target)
            show_banner(settings)
            block = load_credentials(settings.credentials_block)
            connection = build_connection(block, settings)
            show(f"Projet GCP       : {connection.project}")
            # What Google refuses is said here, before dbt and in our words.
            fresh_token(connection.credentials)
            warnings = find_warnings(settings)
            if changed_since:
                options = options.of_what_changed()
                if set(commands) <= {"deps", "retry", "run-operation"}:
                    raise ConfigurationError(
                        f"--changed-since : {', '.join(commands)} ne prend aucune sélection."
                    )
            services = {
                "L'API Prefect": PREFECT_API_URL.value(),
                "BigQuery": settings.endpoint or GOOGLE_ENDPOINT,
            }
            with (
                stop.after(settings.run_timeout_seconds),
                say_what_stops_answering(services),
                open_dbt(connection, settings, words) as dbt,
            ):
                if changed_since or "clone" in commands:
                    dbt = with_state_of_prod(dbt, changed_since, options)
                if changed_since:
                    dbt, left = with_deferral_to_prod(dbt, options)
                    for name in left:
                        get_run_logger().warning(UNBUILT_WARNING, name)
                return run_commands(options, dbt, warnings, changed_since)
        except TerminationSignal:
            if stop.state:
                return stop.state
            raise
        except Exception as error:
            known = explain(error)
            if known is None:
                raise
            return Failed(message=str(known), data=known)


def run_commands(
    options: DbtOptions, dbt: DbtRunner, warnings: list[str], changed_since: str | None
) -> State[Any]:
    """Run the dbt commands until one fails, and show what those before it built."""
    results = []
    for command in dbt.commands:
        dbt_task = run_dbt_command.with_options(
            name=f"dbt {command}",
            retries=dbt.settings.retries,
            retry_delay_seconds=exponential_backoff(RETRY_SECONDS),
        )
        state = dbt_task(command, options, dbt, warnings, return_state=True)
        if not state.is_completed():
            break
        results.append(state.result())
    # What an earlier command built is there, whatever failed after it.
    if built := summary(results, dbt.settings.target):
        show(built)
    if not state.is_completed():
        error: Any = get_state_exception(state)
        known = explain(error)
        return Failed(message=str(known or state.message), data=known or error)
    message = success_message(results)
    if changed_since and not any(result.nodes for result in results):
        message = f"De ce que prend l'exécution, rien n'a changé depuis {changed_since}."
    elif nothing := idle_message(results):
        return Failed(message=nothing, data=DbtError(nothing))
    if warned := warning_message(results):
        return Completed(name=WITH_WARNINGS, message=f"{message}\n{warned}")
    return Completed(message=message)


def exit_code(state: State[Any]) -> int:
    """Return the exit code of a run that ended in this state."""
    if state.is_completed():
        return 0
    if state.is_cancelled():
        return EXIT_TERMINATED
    return getattr(get_state_exception(state), "exit_code", PipelineError.exit_code)


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Run the pipeline; return the exit code, after the reason if it failed."""
    parameters = parse_arguments(dbt_full_pipeline.parameters.properties, argv)
    # An exit, so that the temporary Prefect server is stopped first.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    take_hangup_for_termination()
    end_soon_after_a_signal()
    ensure_prefect_server(while_it_boots=import_libraries)
    state = dbt_full_pipeline(**parameters, return_state=True)
    # Flush Prefect's events now: its last messages would otherwise follow the reason.
    EventsWorker.drain_all(timeout=DRAIN_SECONDS)
    if not state.is_completed():
        print(state.message, file=sys.stderr)
    return exit_code(state)


if __name__ == "__main__":
    # Spares the collection of garbage at exit: half a second, for memory that goes anyway.
    atexit.register(gc.freeze)
    raise SystemExit(main())

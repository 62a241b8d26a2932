"""The pipeline: `dbt run`, then `dbt test`, on BigQuery, with credentials from Prefect.

The same file runs on a laptop (`python prefect/pipeline.py`) and as a deployment.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any, Literal, get_args

from command_line import french_parser, refuse_unreadable_env_file, say_errors
from warm_dbt import start_dbt_server

if __name__ == "__main__":
    refuse_unreadable_env_file()
    # While the rest is imported.
    start_dbt_server()

from prefect import flow, get_client, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.events.worker import EventsWorker
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Completed, Failed, get_state_exception
from prefect.tasks import exponential_backoff
from pydantic import Field

from dbt_artifact import render_markdown
from dbt_command import DbtRunner, open_dbt, packages_are_missing
from dbt_connection import build_connection, import_libraries, load_credentials
from dbt_report import failure_message, summary
from google_tokens import fresh_token
from local_server import ensure_prefect_server
from pipeline_errors import DbtError, PassingFaultError, PipelineError, explain
from pipeline_settings import PipelineSettings, Target, load_settings, misspelt_variables
from service_watch import say_what_stops_answering

EXIT_TERMINATED = 128 + signal.SIGTERM

# After a passing fault: about 5 s, then 10 s, then 20 s…, each more or less by half.
RETRY_SECONDS = 5
RETRY_JITTER = 0.5

CANCELLATION_POLL_SECONDS = 3
DRAIN_SECONDS = 5
# The first eight are for dbt, to cancel its BigQuery jobs.
ENDING_SECONDS = 12

GOOGLE_ENDPOINT = "https://bigquery.googleapis.com"

Command = Literal["run", "test", "seed", "snapshot", "source freshness", "build", "deps"]

# One or more words of dbt's selection syntax.
Nodes = Annotated[str, Field(pattern=r"\S")]

TARGET_WARNING = (
    "DBT_TARGET n'est défini nulle part : ce déploiement écrit dans dev ({dataset}). Pour la "
    "production : `prefect variable set dbt_target prod`, ou DBT_TARGET=prod dans "
    "l'environnement du déploiement."
)


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
    """Log and return what the owner of the settings has to know of them."""
    warnings = misspelt_variables()
    if runtime.deployment.id is not None and settings.target_is_a_default:
        warnings.append(TARGET_WARNING.format(dataset=settings.dataset))
    for warning in warnings:
        get_run_logger().warning(warning)
    return warnings


def hit_a_passing_fault(_task: Any, _task_run: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect should run the dbt command again."""
    return isinstance(state.data, PassingFaultError)


def is_not_an_echo(record: logging.LogRecord) -> bool:
    """Whether a record says more than the failed state that Prefect reports anyway."""
    return not record.getMessage().startswith("Task run failed with")


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_jitter_factor=RETRY_JITTER,
    retry_condition_fn=hit_a_passing_fault,
)
def run_dbt_command(arguments: list[str], dbt: DbtRunner, warnings: list[str]) -> Any:
    """Return the DbtResult of the command, or a Failed state that says what failed."""
    attempt, attempts = runtime.task_run.run_count, dbt.settings.retries + 1
    result = dbt.run(arguments, resume=attempt > 1)
    create_markdown_artifact(
        key=f"dbt-{result.command.replace(' ', '-')}-{dbt.settings.target}",
        markdown=render_markdown(result, dbt.settings, warnings),
    )
    if result.succeeded:
        return result
    message = failure_message(result)
    if not result.hit_a_passing_fault:
        return Failed(message=message, data=DbtError(message))
    message += f"\nPanne passagère de BigQuery ou du réseau, essai {attempt} sur {attempts}"
    if attempt < attempts:
        get_run_logger().warning("%s : ce qui a échoué sera refait.", message)
    else:
        message += " : relancez plus tard. Si cela dure, vérifiez le réseau."
    return Failed(message=message, data=PassingFaultError(message))


@contextmanager
def stop_when_cancelled() -> Iterator[threading.Event]:
    """Turn a cancellation asked for in Prefect's interface into a SIGTERM; yield whether it came.

    In a deployment, the worker does that.
    """
    cancelled, finished = threading.Event(), threading.Event()
    flow_run_id = runtime.flow_run.id

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not finished.wait(CANCELLATION_POLL_SECONDS):
                # A server that does not answer is for the run itself to say.
                with suppress(Exception):
                    state = client.read_flow_run(flow_run_id).state
                    if state and state.is_cancelling():
                        cancelled.set()
                        os.kill(os.getpid(), signal.SIGTERM)
                        return

    if runtime.deployment.id is None:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield cancelled
    finally:
        finished.set()


@flow(name="pipeline-dbt-complet", description="dbt run puis dbt test sur BigQuery.")
def dbt_full_pipeline(
    target: Literal["dev", "prod"] | None = None,
    select: Nodes | None = None,
    exclude: Nodes | None = None,
    full_refresh: bool = False,
    commands: Annotated[list[Command], Field(min_length=1)] = ["run", "test"],  # noqa: B006
) -> State[Any]:
    """Load the configuration, then run the dbt commands until one fails.

    The descriptions are those of Prefect's form and of the command line. prefect-cloud makes
    the form from this file alone: types and defaults that come from elsewhere are lost.

    Args:
        target: Cible : dev ou prod. Par défaut, celle des réglages (DBT_TARGET).
        select: Nœuds à traiter, comme --select de dbt. Par défaut, tous.
        exclude: Nœuds à laisser de côté, comme --exclude de dbt.
        full_refresh: Reconstruire les tables incrémentales en entier.
        commands: Commandes dbt, dans l'ordre. Par défaut, run puis test.
    """
    start_dbt_server()
    logging.getLogger("prefect.task_runs").addFilter(is_not_an_echo)
    selection = Selection(select, exclude, full_refresh)
    with stop_when_cancelled() as cancelled:
        try:
            settings = load_settings(target)
            show_banner(settings)
            connection = build_connection(load_credentials(settings.credentials_block), settings)
            show(f"Projet GCP       : {connection.project}")
            # What Google refuses is said here, before dbt and in our words.
            fresh_token(connection.credentials)
            warnings = find_warnings(settings)
            if packages_are_missing() and "deps" not in commands:
                commands = ["deps", *commands]
            services = {
                "L'API Prefect": PREFECT_API_URL.value(),
                "BigQuery": settings.endpoint or GOOGLE_ENDPOINT,
            }
            with say_what_stops_answering(services), open_dbt(connection, settings) as dbt:
                return run_commands(commands, selection, dbt, warnings)
        except TerminationSignal:
            if cancelled.is_set():
                return Cancelled(message="Annulée depuis l'interface de Prefect.")
            raise
        except Exception as error:
            known = explain(error)
            if known is None:
                raise
            return Failed(message=str(known), data=known)


def run_commands(
    commands: list[Command], selection: Selection, dbt: DbtRunner, warnings: list[str]
) -> State[Any]:
    """Run the dbt commands until one fails, and show what was built."""
    results = []
    for command in commands:
        dbt_task = run_dbt_command.with_options(
            name=f"dbt {command}",
            retries=dbt.settings.retries,
            retry_delay_seconds=exponential_backoff(RETRY_SECONDS),
        )
        state = dbt_task(selection.arguments(command), dbt, warnings, return_state=True)
        if not state.is_completed():
            return Failed(message=state.message, data=get_state_exception(state))
        results.append(state.result())
    if built := summary(results, dbt.settings.target):
        show(built)
    return Completed(message=f"{', '.join(f'dbt {command}' for command in commands)} : réussi.")


def parse_arguments(argv: list[str] | None) -> dict[str, Any]:
    """Return the parameters of the flow that the command line gives."""
    properties = dbt_full_pipeline.parameters.properties
    helps = {name: text["description"].strip() for name, text in properties.items()}
    parser = french_parser(
        "pipeline.py",
        "Lance dbt run puis dbt test sur BigQuery.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--target", choices=get_args(Target), help=helps["target"])
    for name in ("select", "exclude"):
        # Several add up, as in dbt.
        parser.add_argument(
            f"--{name}", action="append", type=nodes, metavar="NŒUDS", help=helps[name]
        )
    parser.add_argument("--full-refresh", action="store_true", help=helps["full_refresh"])
    parser.add_argument(
        "--commands",
        nargs="+",
        choices=get_args(Command),
        metavar="COMMANDE",
        help=f"{helps['commands']} Possibles : {', '.join(get_args(Command))}.",
    )
    parameters = vars(parser.parse_args(argv))
    return {
        name: " ".join(value) if name in ("select", "exclude") else value
        for name, value in parameters.items()
    }


def nodes(text: str) -> str:
    """Return the words of a selection; argparse's error when there is none."""
    if not text.strip():
        raise argparse.ArgumentTypeError("la valeur est vide : ôtez l'option pour tout prendre")
    return text


def end_soon_after_a_signal() -> None:
    """Have this process end within ENDING_SECONDS of a SIGINT or SIGTERM.

    When the Prefect server has gone, Prefect goes on telling it of the end for minutes.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())

    def wait() -> None:
        with reader, writer:
            number = reader.recv(1)[0]
            time.sleep(ENDING_SECONDS)
        print("Interrompue, sans que Prefect ait pu en prendre note.", file=sys.stderr, flush=True)
        os._exit(128 + number)

    threading.Thread(target=wait, daemon=True).start()


def terminate(number: int, _frame: FrameType | None) -> None:
    """Turn SIGTERM into an exit, so that the temporary Prefect server is stopped first."""
    raise SystemExit(128 + number)


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
    parameters = parse_arguments(argv)
    signal.signal(signal.SIGTERM, terminate)
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

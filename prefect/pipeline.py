"""The pipeline: `dbt run`, then `dbt test`, on BigQuery, with credentials from Prefect.

The same file runs on a laptop (`python prefect/pipeline.py`) and as a deployment.
"""

from __future__ import annotations

import atexit
import gc
import signal
import sys
from typing import Annotated, Any, Literal

from bi_pipeline.command_line import end_at_once, refuse_unreadable_env_file, say_errors
from bi_pipeline.settings import REHEARSAL_DIR
from warm_dbt import start_dbt_server

if __name__ == "__main__":
    # A script starts `pipeline.py &` with SIGINT ignored. With a handler here, a Ctrl-C meant for
    # the script's next command would end the pipeline.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)
    refuse_unreadable_env_file()
    # dbt's server boots while the imports below last: started after them, the first command would
    # wait for the server.
    start_dbt_server(REHEARSAL_DIR)

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.events.worker import EventsWorker
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Failed, get_state_exception
from prefect.tasks import exponential_backoff
from pydantic import Field

from bi_pipeline.arguments import parse_arguments
from bi_pipeline.bigquery.connection import (
    DbtConnection,
    import_libraries,
    load_credentials,
    make_connection,
)
from bi_pipeline.dbt_runs.estimate import refuse_local_estimate
from bi_pipeline.dbt_runs.git_repository import read_current_commit
from bi_pipeline.dbt_runs.only_new import News, keep_state, look_for_news, note_command
from bi_pipeline.dbt_runs.options import ESTIMATE, DbtOptions
from bi_pipeline.dbt_runs.plan import plan_commands
from bi_pipeline.dbt_runs.prod_state import compare_with_prod
from bi_pipeline.dbt_runs.runner import DbtRunner, open_dbt
from bi_pipeline.errors import (
    ConfigurationError,
    DbtError,
    OutOfBudgetError,
    PassingFaultError,
    PipelineError,
)
from bi_pipeline.explanations import explain, explain_refusal
from bi_pipeline.lifetime.ending import (
    Ending,
    end_soon_after_a_signal,
    take_hangup_for_termination,
)
from bi_pipeline.lifetime.local_servers import ensure_prefect_server
from bi_pipeline.lifetime.run_log import (
    leave_ending_off_the_terminal,
    leave_out_echoes,
    log_ending,
)
from bi_pipeline.lifetime.service_watch import say_what_stops_answering
from bi_pipeline.reports.bills import describe_bill, describe_overspending
from bi_pipeline.reports.estimate import describe_estimate, render_estimate
from bi_pipeline.reports.message import (
    describe_failure,
    describe_idle_run,
    describe_news,
    describe_retry,
    describe_success,
    describe_warnings,
    render_summary,
)
from bi_pipeline.reports.publishing import publish, publish_in_time, publish_news
from bi_pipeline.result import WITH_EARLIER_WARNINGS, WITH_WARNINGS, DbtResult
from bi_pipeline.settings import (
    PROJECT_ROOT,
    PipelineSettings,
    find_misspelt_variables,
    load_settings,
)
from warm_dbt.tokens import read_token

EXIT_TERMINATED = 128 + signal.SIGTERM

# Between attempts about 5 s, then 10 s, then 20 s…, each more or less by half: without the jitter,
# runs that a fault has stopped together would ask BigQuery again together.
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
    "estimate",
    "docs generate",
    "run-operation",
]

# dbt's selection syntax. dbt takes an empty --select for « nothing » and an empty --selector for
# « everything », both without a word; so blanks alone are refused.
Nodes = Annotated[str, Field(pattern=r"\S")]

TARGET_WARNING = (
    "DBT_TARGET n'est défini nulle part : ce déploiement écrit dans dev ({dataset}). Pour la "
    "production : `prefect variable set dbt_target prod`, ou DBT_TARGET=prod dans "
    "l'environnement du déploiement."
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
    """Log and return the warnings on the settings: misspelt variables, a target set nowhere."""
    warnings = find_misspelt_variables()
    if runtime.deployment.id is not None and settings.target_is_a_default:
        warnings.append(TARGET_WARNING.format(dataset=settings.dataset))
    for warning in warnings:
        get_run_logger().warning(warning)
    return warnings


def connect(settings: PipelineSettings) -> DbtConnection:
    """Return how dbt reaches BigQuery; a refusal of Google's is raised here, before dbt starts."""
    from google.auth.exceptions import RefreshError

    block = load_credentials(settings.credentials_block)
    connection = make_connection(block, settings)
    show(f"Projet GCP       : {connection.project}")
    # Ask for a token now: otherwise a revoked key would fail inside dbt, in words of google-auth.
    try:
        read_token(connection.credentials)
    except RefreshError as error:
        prefect = PREFECT_API_URL.value() or "" if runtime.deployment.id else ""
        raise ConfigurationError(explain_refusal(str(error), settings, prefect)) from None
    return connection


def find_overspending(dbt: DbtRunner) -> str:
    """Return that the run has billed more than its budget; empty while it may go on."""
    return describe_overspending(dbt.bill, dbt.settings.run_maximum_bytes_billed)


def hit_a_passing_fault(_task: Any, _task_run: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect should run the dbt command again."""
    return isinstance(state.data, PassingFaultError)


def make_error(result: DbtResult, attempt: int, dbt: DbtRunner) -> PipelineError:
    """Return the error of a command that failed: after a passing fault it says what comes next."""
    message, attempts = describe_failure(result), dbt.settings.retries + 1
    if not result.hit_a_passing_fault:
        return DbtError(message)
    if attempt < attempts and (overspent := find_overspending(dbt)):
        return OutOfBudgetError(f"{message}\nPanne passagère, mais sans nouvel essai : {overspent}")
    return PassingFaultError(describe_retry(message, attempt, attempts))


def publish_what_was_done(dbt: DbtRunner, warnings: list[str], attempts: list[DbtResult]) -> None:
    """Put in Prefect the page of a command that was interrupted, within a few seconds."""
    project, commit = dbt.connection.project, read_current_commit(PROJECT_ROOT)
    for done in dbt.interrupted:
        whole = attempts[-1].merge_retry(done) if attempts else done
        publish_in_time(whole, dbt.settings, project, warnings, commit)


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_jitter_factor=RETRY_JITTER,
    retry_condition_fn=hit_a_passing_fault,
)
def run_dbt_command(
    command: str,
    options: DbtOptions,
    dbt: DbtRunner,
    warnings: list[str],
    attempts: list[DbtResult],
) -> Any:
    """Return the DbtResult of the command, or a Failed state that says what failed.

    `attempts` has the results of the attempts before this one, and gets this one's.
    """
    if overspent := find_overspending(dbt):
        message = f"Arrêtée avant dbt {command} : {overspent}"
        return Failed(message=message, data=OutOfBudgetError(message))
    try:
        result = dbt.run(command, options, attempts[-1] if attempts else None)
    except PipelineError as error:
        return Failed(message=str(error), data=error)
    except BaseException:
        publish_what_was_done(dbt, warnings, attempts)
        raise
    attempts.append(result)
    failure = None if result.succeeded else make_error(result, len(attempts), dbt)
    will_be_retried = (
        isinstance(failure, PassingFaultError) and len(attempts) <= dbt.settings.retries
    )
    if not will_be_retried and not result.did_nothing:
        commit = read_current_commit(PROJECT_ROOT)
        result = dbt.add_failing_rows(result)
        result = publish(result, dbt.settings, dbt.connection.project, warnings, commit)
        if result.drift:
            get_run_logger().warning(result.drift)
    if result.estimate:
        show(render_estimate(result.estimate, dbt.settings.target))
    if failure is None:
        return result
    if will_be_retried:
        get_run_logger().warning(failure)
    return Failed(message=str(failure), data=failure)


# retries and persist_result are explicit: Prefect settings in the caller's shell would change them.
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
    only_new: bool = False,
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
        only_new: Ne traiter que ce qui a du neuf depuis la dernière réussite : données, code ou réglages.
        vars: Variables du projet dbt, comme --vars de dbt.
        event_time_start: Début des lots (UTC, AAAA-MM-JJ), comme --event-time-start de dbt.
        event_time_end: Fin des lots, exclue (UTC, AAAA-MM-JJ), comme --event-time-end de dbt.
        threads: Nœuds traités en même temps. Par défaut, DBT_THREADS.
        commands: Commandes dbt, dans l'ordre. Par défaut, run puis test. estimate : ce qu'une exécution facturerait, sans rien lancer.
        macro: Macro que lance run-operation.
    """  # noqa: E501 - Prefect takes one line a parameter
    start_dbt_server(REHEARSAL_DIR)
    leave_out_echoes()
    with Ending() as ending:
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
        words, options = plan_commands(commands, macro, options, changed_since, only_new)
        settings = load_settings(target)
        refuse_local_estimate(words, settings)
        show_banner(settings)
        connection = connect(settings)
        warnings = find_warnings(settings)
        with (
            ending.limit_time(settings.run_timeout_seconds),
            say_what_stops_answering(settings),
            open_dbt(connection, settings, words) as dbt,
        ):
            dbt = compare_with_prod(dbt, options, changed_since)
            news, options = look_for_news(dbt, options) if only_new else (None, options)
            ending.run_state = run_commands(options, dbt, warnings, changed_since, news)
    log_ending(ending.run_state)
    return ending.run_state


def run_commands(
    options: DbtOptions,
    dbt: DbtRunner,
    warnings: list[str],
    changed_since: str | None,
    news: News | None,
) -> State[Any]:
    """Run the dbt commands until one fails, and show what they built."""
    if news:
        found = describe_news(news.reasons, news.done, news.since)
        publish_news(found.partition("\n")[0], news.reasons, dbt.settings, dbt.connection.project)
        if not news.reasons:
            return complete(found, [], news)
        show(found)
    state, results, failed = run_until_failure(options, dbt, warnings, news)
    if built := render_summary([*results, *failed], dbt.settings.target):
        show(built)
    if billed := describe_bill(dbt.bill, is_local=dbt.settings.is_local):
        show(billed)
    if not state.is_completed():
        error: Any = get_state_exception(state)
        known = explain(error)
        return Failed(message=str(known or state.message), data=known or error)
    estimates = [describe_estimate(result.estimate) for result in results if result.estimate]
    message = " ".join([describe_success(results), *estimates]).strip()
    if changed_since and not any(result.nodes for result in results):
        message = f"De ce que prend l'exécution, rien n'a changé depuis {changed_since}."
    elif not news and (nothing := describe_idle_run(results)):
        return Failed(message=nothing, data=DbtError(nothing))
    if news:
        keep_state(dbt, news)
    return complete(message, results, news)


def run_until_failure(
    options: DbtOptions, dbt: DbtRunner, warnings: list[str], news: News | None
) -> tuple[State[Any], list[DbtResult], list[DbtResult]]:
    """Run the dbt commands until one fails.

    Returns the state of the last one, the results of those that succeeded, and that of the one that
    failed, if it came to one: it has built tables too.
    """
    results: list[DbtResult] = []
    for command in dbt.commands:
        dbt_task = run_dbt_command.with_options(
            name=command if command == ESTIMATE else f"dbt {command}",
            retries=dbt.settings.retries,
            retry_delay_seconds=exponential_backoff(RETRY_SECONDS),
        )
        attempts: list[DbtResult] = []
        state = dbt_task(command, options, dbt, warnings, attempts, return_state=True)
        if not state.is_completed():
            return state, results, attempts[-1:]
        results.append(state.result())
        if news:
            note_command(dbt, news, results[-1])
    return state, results, []


def complete(message: str, results: list[DbtResult], news: News | None) -> State[Any]:
    """Return the state of a run that succeeded, which has a name of its own after a warning."""
    warned = describe_warnings(results, news.warned if news else {})
    if not warned:
        return Completed(message=message)
    is_new = any(result.has_warned for result in results)
    name = WITH_WARNINGS if is_new else WITH_EARLIER_WARNINGS
    return Completed(name=name, message=f"{message}\n{warned}")


def choose_exit_code(state: State[Any]) -> int:
    """Return the exit code of a run that ended in this state."""
    if state.is_completed():
        return 0
    if state.is_cancelled():
        return EXIT_TERMINATED
    return getattr(get_state_exception(state), "exit_code", PipelineError.exit_code)


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Run the pipeline; return the exit code, once how the run ended is the last line."""
    parameters = parse_arguments(dbt_full_pipeline.parameters.properties, argv)
    # By default SIGTERM ends Python without atexit: Prefect's last logs would not be sent, and the
    # temporary Prefect server would not be stopped.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    take_hangup_for_termination()
    end_soon_after_a_signal()
    ensure_prefect_server(while_it_boots=import_libraries)
    leave_ending_off_the_terminal()
    state = dbt_full_pipeline(**parameters, return_state=True)
    # Send Prefect's events now. At exit it would print « Still processing items » for those that
    # are left, below how the run ended, which has to be the last line.
    EventsWorker.drain_all(timeout=DRAIN_SECONDS)
    print(state.message, file=sys.stderr)
    return choose_exit_code(state)


if __name__ == "__main__":
    # At exit Python would collect garbage for half a second, in memory that the system frees
    # anyway; the collector leaves frozen objects alone.
    atexit.register(gc.freeze)
    raise SystemExit(main())

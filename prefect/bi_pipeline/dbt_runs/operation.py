"""Runs one dbt process through DbtCoreOperation, which no other module knows."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bi_pipeline.bigquery.connection import DbtConnection
from bi_pipeline.dbt_runs.dbt_log import JSON_LOGS, show_plain_log
from bi_pipeline.settings import REHEARSAL_DIR
from warm_dbt import CLIENT, INTERRUPT_SECONDS, start_dbt_server
from warm_dbt.tokens import serve_tokens

if TYPE_CHECKING:
    from prefect_shell.commands import ShellProcess


@dataclass(frozen=True)
class EndedProcess:
    """A dbt process that has ended.

    Attributes:
        return_code: dbt's exit code; negative if a signal ended it.
        lines: what it printed.
    """

    return_code: int
    lines: list[str]


def run_dbt_process(
    words: list[str],
    connection: DbtConnection,
    environment: dict[str, str],
    folder: Path,
    lock: int,
    *,
    shown: bool,
    on_interruption: Callable[[list[str]], None],
) -> EndedProcess:
    """Run `dbt` with these words to its end, in a folder; never raises for what dbt does.

    The profile is in a private temporary folder for that time. If a signal or an exception
    interrupts the wait, dbt is interrupted first.

    Args:
        connection: who dbt is for BigQuery: it is given tokens, and a profile without a secret.
        lock: descriptor of a lock, which dbt holds until it has ended.
        shown: whether its lines go to the log of the Prefect run as they come.
        on_interruption: called with what dbt has printed, once it was interrupted and has ended.
    """
    # Not at the top: prefect_dbt.cli warns, at its first import, that it is deprecated.
    # make_connection() has done that import, with the warning silenced.
    from prefect_dbt.cli import DbtCoreOperation

    with (
        ExitStack() as interrupted,
        tempfile.TemporaryDirectory(prefix="dbt-profile-") as profiles_dir,
        show_plain_log(),
        ExitStack() as sockets,
    ):
        dbt_server = sockets.enter_context(start_dbt_server(REHEARSAL_DIR).connect())
        tokens = sockets.enter_context(serve_tokens(connection.credentials))
        descriptors = [dbt_server.fileno(), lock, tokens.fileno()]
        command = [*CLIENT, *map(str, descriptors), JSON_LOGS, *words]
        with DbtCoreOperation(
            # Without `exec`, the process would be a shell around the client: SIGINT would end the
            # shell alone, and dbt would not cancel its BigQuery jobs.
            commands=["exec " + shlex.join(command)],
            dbt_cli_profile=connection.profile,
            overwrite_profiles=True,
            profiles_dir=Path(profiles_dir),
            working_dir=folder,
            env=environment,
            log_prefix=None,
            stream_output=shown,
        ) as operation:
            process = operation.trigger(pass_fds=descriptors)
            # The client has inherited these sockets. Close our copies, or the other side never
            # sees EOF when it exits.
            sockets.close()
            try:
                _wait_for(process)
            except BaseException:
                # Once the operation is closed: before, fetch_result would log that the process
                # still runs.
                interrupted.callback(lambda: on_interruption(process.fetch_result()))
                raise
        return_code = 1 if process.return_code is None else process.return_code
        return EndedProcess(return_code, process.fetch_result())


def _wait_for(process: ShellProcess) -> None:
    """Wait until the process has ended; any other end of the wait interrupts dbt first."""
    try:
        # For any exit code but 0, wait_for_completion raises RuntimeError (« PID n failed… »): the
        # run would end there, without a look at what dbt printed.
        with suppress(RuntimeError):
            process.wait_for_completion()
    except BaseException:
        _interrupt(process.pid)
        raise


def _interrupt(pid: int) -> None:
    """Let dbt cancel its BigQuery jobs; the operation ends what is left when it closes."""
    deadline = time.monotonic() + INTERRUPT_SECONDS
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGINT)
        # Not os.waitid: macOS lacks it before Python 3.13, and an exception here would have dbt
        # killed while it cancels.
        while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.1)

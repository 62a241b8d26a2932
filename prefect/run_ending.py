"""How a run is stopped before its end: from Prefect, by its time limit, by a signal.

| what stops it | who says so | state, exit code |
| --- | --- | --- |
| Ctrl-C | SIGINT, to this process | Crashed, 130 |
| SIGTERM, a worker's too | SIGTERM, to this process | Crashed, 143 |
| its terminal is closed | SIGHUP, to this process | Crashed, 143 |
| « Cancel » in the interface | Stop, by a SIGTERM to itself | Cancelled, 143 |
| DBT_RUN_TIMEOUT_SECONDS | Stop, by a SIGTERM to itself | TimedOut, 143 |

Prefect makes a TerminationSignal of SIGTERM, which `pipeline.py` catches: a Stop that has asked
for it gives the state.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from prefect import get_client, runtime
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Failed

from local_server import SIGNALS
from pipeline_errors import OutOfTimeError

CANCELLATION_POLL_SECONDS = 3
# The first eight are for dbt, to cancel its BigQuery jobs.
ENDING_SECONDS = 12


@dataclass
class Stop:
    """A stop of the run that is asked for elsewhere, and done by a SIGTERM to this process.

    Attributes:
        state: the state that the run then ends in; None as long as nothing is asked.
    """

    state: State[Any] | None = None

    def _end_in(self, state: State[Any]) -> None:
        self.state = state
        os.kill(os.getpid(), signal.SIGTERM)

    @contextmanager
    def when_cancelled(self) -> Iterator[None]:
        """Stop when Prefect's interface cancels the run; in a deployment, the worker does."""
        finished, flow_run_id = threading.Event(), runtime.flow_run.id

        def watch() -> None:
            with get_client(sync_client=True) as client:
                while not finished.wait(CANCELLATION_POLL_SECONDS):
                    # A server that does not answer is for the run itself to say.
                    with suppress(Exception):
                        state = client.read_flow_run(flow_run_id).state
                        if state and state.is_cancelling():
                            self._end_in(
                                Cancelled(message="Annulée depuis l'interface de Prefect.")
                            )
                            return

        if runtime.deployment.id is None:
            threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            finished.set()

    @contextmanager
    def after(self, seconds: int | None) -> Iterator[None]:
        """Stop when what is in the block takes longer; never, without a number of seconds."""
        error = OutOfTimeError(
            f"Arrêtée au bout de {seconds} s, sa durée maximale : dbt a annulé ses requêtes. "
            "Relevez DBT_RUN_TIMEOUT_SECONDS, ou voyez dans l'artefact ce qui a duré."
        )
        state: State[Any] = Failed(name="TimedOut", message=str(error), data=error)
        timer = threading.Timer(seconds or 0, self._end_in, [state])
        timer.daemon = True
        if seconds:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()


def take_hangup_for_termination() -> None:
    """Have this process take SIGHUP for a SIGTERM, once, unless it ignores it (`nohup`).

    By default it ends the process at once: Prefect would show the run as running for ever.
    """

    def terminate(*_: object) -> None:
        # A closed terminal sends it more than once: the next would cut the ending short.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)

    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, terminate)


def end_soon_after_a_signal() -> None:
    """Have this process end within ENDING_SECONDS of a SIGINT, SIGTERM or SIGHUP.

    When the Prefect server has gone, Prefect goes on telling it of the end for minutes.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())

    def wait() -> None:
        with reader, writer:
            # A team's own task may use others: Prefect's time limit of a task is SIGALRM.
            while (number := reader.recv(1)[0]) not in SIGNALS:
                pass
            time.sleep(ENDING_SECONDS)
        print("Interrompue, sans que Prefect ait pu en prendre note.", file=sys.stderr, flush=True)
        os._exit(128 + number)

    threading.Thread(target=wait, daemon=True).start()

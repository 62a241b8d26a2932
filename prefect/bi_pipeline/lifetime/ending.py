"""How a run ends before its end: from Prefect, by its time limit, by a signal, by a known error.

| what ends it | who says so | state, exit code |
| --- | --- | --- |
| Ctrl-C | SIGINT, to this process | Crashed, 130 |
| SIGTERM, a worker's too | SIGTERM, to this process | Crashed, 143 |
| its terminal is closed | SIGHUP, to this process | Crashed, 143 |
| « Cancel » in the interface | Ending, by a SIGTERM to itself | Cancelled, 143 |
| DBT_RUN_TIMEOUT_SECONDS | Ending, by a SIGTERM to itself | TimedOut, 143 |
| DBT_RUN_MAXIMUM_BYTES_BILLED | the flow, before the next dbt command or try | Failed, 143 |
| an error that a user can mend | `explain` | Failed, that of the error |
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self
from uuid import UUID

from prefect import get_client, runtime
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Failed

from bi_pipeline.errors import OutOfTimeError
from bi_pipeline.explanations import explain
from bi_pipeline.lifetime.local_servers import SIGNALS
from warm_dbt import INTERRUPT_SECONDS

CANCELLATION_POLL_SECONDS = 3
# dbt has INTERRUPT_SECONDS to cancel its jobs; if there were no seconds left after that, Prefect
# would not save the last state, and show the run as running for ever.
ENDING_SECONDS = INTERRUPT_SECONDS + 4

UNTOLD = "Interrompue, sans que Prefect ait pu en prendre note."


class Ending:
    """The context of a run, which turns its end before the end into a state.

    Such an end is one asked for here, by a SIGTERM that Prefect raises as TerminationSignal, or an
    error that a user can mend. Any other exception goes through.

    Attributes:
        run_state: that of the run, once the context is left without an exception.
    """

    run_state: State[Any]

    def __init__(self) -> None:
        self._finished = threading.Event()
        self._asked: State[Any] | None = None

    def __enter__(self) -> Self:
        """Watch for « Cancel », and take a closed terminal for a SIGTERM."""
        take_hangup_for_termination()
        # In a deployment the worker watches for « Cancel » and ends this process: with two
        # watchers, they would race for the state of the run.
        if runtime.deployment.id is None:
            flow_run_id = runtime.flow_run.id
            threading.Thread(target=self._watch, args=[flow_run_id], daemon=True).start()
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        """Give the state for an end that was asked for, or an error that a user can mend."""
        self._finished.set()
        if isinstance(error, TerminationSignal) and self._asked:
            self.run_state = self._asked
            return True
        known = explain(error) if isinstance(error, Exception) else None
        if known:
            self.run_state = Failed(message=str(known), data=known)
        return known is not None

    def _end_in(self, state: State[Any]) -> None:
        self._asked = state
        os.kill(os.getpid(), signal.SIGTERM)

    def _watch(self, flow_run_id: str) -> None:
        """End the run when Prefect's interface cancels it."""
        with get_client(sync_client=True) as client:
            while not self._finished.wait(CANCELLATION_POLL_SECONDS):
                # An API that does not answer would end this thread, and « Cancel » would do nothing
                # from then on.
                with suppress(Exception):
                    state = client.read_flow_run(UUID(flow_run_id)).state
                    if state and state.is_cancelling():
                        self._end_in(Cancelled(message="Annulée depuis l'interface de Prefect."))
                        return

    @contextmanager
    def limit_time(self, seconds: int | None) -> Iterator[None]:
        """End the run when what is in the block takes longer; never, without a number."""
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

    By default SIGHUP ends the process at once: Prefect would show the run as running for ever.
    """

    def terminate(*_: object) -> None:
        # A closed terminal sends SIGHUP more than once: the second one would interrupt the ending
        # that the first has begun.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _leave_closed_terminal()
        signal.raise_signal(signal.SIGTERM)

    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, terminate)


def _leave_closed_terminal() -> None:
    """Have what is printed go nowhere if it went to a terminal that is closed.

    Printing there raises; when Python cannot flush at its exit, the exit code is 120.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(stream).st_mode) and not os.isatty(stream):
                os.dup2(nowhere, stream)
    os.close(nowhere)


def end_soon_after_a_signal() -> None:
    """Have this process end within ENDING_SECONDS of a SIGINT, SIGTERM or SIGHUP.

    Prefect retries its last state update for minutes when its server is gone.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())

    def wait() -> None:
        with reader, writer:
            # Any signal with a handler in Python comes here: at SIGALRM, by which Prefect limits
            # the time of a task, the process must go on.
            while (number := reader.recv(1)[0]) not in SIGNALS:
                pass
            time.sleep(ENDING_SECONDS)
        # On a closed terminal print raises: this thread would end, and the process go on.
        with suppress(OSError):
            print(UNTOLD, file=sys.stderr, flush=True)
        os._exit(128 + number)

    threading.Thread(target=wait, daemon=True).start()

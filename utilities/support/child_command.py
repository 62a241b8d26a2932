"""Runs a command beside local servers: signals go to it, and it ends when a server dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import FrameType

import psutil

from bi_pipeline.errors import InfrastructureError
from bi_pipeline.lifetime.local_servers import SIGNALS, LocalServer, hold_signals
from warm_dbt.parent_death import end_with_parent

# Seconds between two looks at the servers, hence the longest that a command uses a dead one.
WATCH_SECONDS = 0.2
# Seconds from SIGINT to SIGKILL once a server has died. Without a limit, a command whose Prefect
# client retries the dead server would go on for minutes.
END_SECONDS = 10


def list_handled_signals() -> list[int]:
    """Return the signals to handle: not SIGHUP if it is ignored, as under `nohup`.

    Handled there, it would end the command that `nohup` is to keep when the terminal closes.
    """
    hangup_is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [x for x in SIGNALS if not (x == signal.SIGHUP and hangup_is_ignored)]


def run_command(
    command: list[str], environment: dict[str, str], servers: Sequence[LocalServer]
) -> int:
    """Run the command to its end; return its exit code, or 3 when a server dies, which ends it.

    A signal that comes before the command runs ends this process; later, it goes to the command.
    """

    def forward(number: int, _frame: FrameType | None) -> None:
        # On Ctrl-C the terminal sends SIGINT to the command as well. If it were forwarded too, the
        # second SIGINT would abort the clean-up that the first has begun.
        if number == signal.SIGTERM or not sys.stdin.isatty():
            process.send_signal(number)

    with ExitStack() as stack:
        with hold_signals():
            try:
                process = subprocess.Popen(command, env=environment, preexec_fn=end_with_parent)
            except OSError as error:
                raise InfrastructureError(f"Commande {command[0]} : {error.strerror}.") from None
            # If a signal raises before `forward` is installed, unwinding this stack terminates and
            # reaps the command. Otherwise it has already ended and these do nothing.
            stack.callback(process.wait)
            stack.callback(process.terminate)
        for number in list_handled_signals():
            stack.callback(signal.signal, number, signal.signal(number, forward))
        return_code = _wait(process, servers)
    return return_code if return_code >= 0 else 128 - return_code


def _wait(process: subprocess.Popen[bytes], servers: Sequence[LocalServer]) -> int:
    """Return the exit code of the command; when a server dies first, say so and end it."""
    while process.poll() is None:
        for server in servers:
            if server.process.poll() is not None:
                print(server.make_error("s'est arrêté"), file=sys.stderr, flush=True)
                _end(process)
                return InfrastructureError.exit_code
        with suppress(subprocess.TimeoutExpired):
            process.wait(WATCH_SECONDS)
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the command; after END_SECONDS, kill it and the descendants that are left."""
    # Collect descendants while the parent lives: once it exits, its children are re-parented and
    # cannot be found.
    family = {psutil.Process(process.pid)}
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + END_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for member in list(family):
            with suppress(psutil.NoSuchProcess):
                family.update(member.children())
        time.sleep(0.05)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()

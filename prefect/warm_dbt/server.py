"""A process that has imported dbt, and forks for each command that `client.py` brings.

Started as `python -P server.py FOLDER`, with a socket of the caller as standard input. Messages on
the sockets, descriptors beside bytes:

    caller -> server     one byte, with the socket of one client
    client -> server     one byte, with standard input, output and error, the lock and the
                         socket of the tokens; then a line of JSON: arguments, folder, environment
    server -> client     a line, the process of dbt; when that has ended a line, its exit code

A client or a caller that goes before dbt has it stopped: SIGINT, and SIGKILL after
INTERRUPT_SECONDS. A plain process, without a server, watches its caller itself (`process.py`).
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

# As a script, this file does not find `warm_dbt`, so prefect/ goes on the path; and last, or a
# module of ours would hide a library's of the same name.
sys.path.append(str(Path(__file__).parents[1]))

from warm_dbt import INTERRUPT_SECONDS, process
from warm_dbt.parent_death import end_with_parent

# A tiny project, parsed at start so that dbt's lazily built code is warm before the first fork:
# one model, test, unit test, source.
REHEARSAL_FILES = {
    "dbt_project.yml": "{name: rehearsal, profile: rehearsal}",
    "profiles.yml": (
        "{rehearsal: {target: none, outputs: {none: {type: bigquery, method: oauth, "
        "project: none, schema: none, threads: 1}}}}"
    ),
    "models/one.sql": "select 1 as id",
    "models/one.yml": (
        "{models: [{name: one, columns: [{name: id, data_tests: [not_null]}]}], "
        "unit_tests: [{name: one, model: one, given: [], expect: {rows: [{id: 1}]}}], "
        "sources: [{name: none, tables: [{name: one}]}]}"
    ),
}


def rehearse(folder: Path) -> None:
    """Parse a small project here: dbt makes much of its code at first use, 0.7 s of a command.

    A failure is ignored: the command then makes that code itself, and says what is wrong.
    """
    from dbt.cli.main import cli

    process.forget_what_the_shell_says()
    os.environ |= {
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DBT_ENGINE_HINTS_ENABLED": "false",
        "DBT_PROFILES_DIR": ".",
        "PYTHON_DOTENV_DISABLED": "1",
    }
    with suppress(Exception):
        for name, text in REHEARSAL_FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        os.chdir(folder)
        # dbt's static parser starts Rust threads, which a fork does not have: the command would
        # wait for them for ever.
        cli(["--no-static-parser", "--log-level-file=none", "parse"], standalone_mode=False)


def serve(control: socket.socket) -> None:
    """Run the commands that come, one at a time, until the caller has gone."""
    while True:
        byte, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not byte:
            return
        with socket.socket(fileno=descriptors[0]) as connection:
            serve_command(connection, control)


def serve_command(connection: socket.socket, control: socket.socket) -> None:
    """Fork for the command of this client; tell it the process, then the exit code."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 5)
    with connection.makefile() as lines:
        request = lines.readline()
    if request.endswith("\n"):
        pid = os.fork()
        if not pid:
            connection.close()
            become_dbt(json.loads(request), descriptors)
        code = wait_for_dbt(pid, connection, control)
        # If the client was killed, sendall raises: the server would end, and with it all the
        # commands to come.
        with suppress(ConnectionError):
            connection.sendall(f"{code}\n".encode())
    for descriptor in descriptors:
        os.close(descriptor)


def become_dbt(request: tuple[list[str], str, dict[str, str]], descriptors: list[int]) -> NoReturn:
    """Run the command in this process, as if the client had started it.

    Args:
        request: arguments of dbt, folder and environment.
        descriptors: those of the client. The lock is on what dbt writes: held until this
            process ends.
    """
    end_with_parent(signal.SIGINT)
    arguments, folder, environment = request
    *standard, _lock, tokens = descriptors
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code: object = 1
    try:
        process.run(tokens, arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        # Python would first tear down all that dbt imported: half a second before the client has
        # the exit code. os._exit skips that, and atexit and flushing, which are done above.
        os._exit(code if isinstance(code, int) else 1)


def wait_for_dbt(pid: int, connection: socket.socket, control: socket.socket) -> int:
    """Return the exit code of the process, stopped if the client or the caller goes first."""
    ended = os.pidfd_open(pid)
    try:
        with suppress(ConnectionError):
            connection.sendall(f"{pid}\n".encode())
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        for watched in (connection, control):
            # Event mask 0, as poll() always reports a hang-up: with POLLIN, the next client, which
            # waits on `control`, would pass for the end of the caller.
            poller.register(watched, 0)
        if ended not in dict(poller.poll()):
            os.kill(pid, signal.SIGINT)
            if not select.select([ended], [], [], INTERRUPT_SECONDS)[0]:
                os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(ended)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    # During the rehearsal nobody reads EOF from the caller: without this signal, the server would
    # outlive a killed caller by seconds. No command can be lost yet.
    end_with_parent()
    rehearse(Path(sys.argv[1]))
    gc.freeze()
    # A command may now be writing, so do not die with the caller: EOF on the socket ends us.
    end_with_parent(0)
    with socket.socket(fileno=os.dup(0)) as control:
        serve(control)
    # A normal exit would first tear down all that dbt imported, half a second, for nothing.
    os._exit(0)

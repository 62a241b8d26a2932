"""Runs dbt commands in forks of a process that has imported dbt once.

dbt is 2,600 modules, three seconds of each command. A server imports them, and rehearses on a tiny
project, while the caller gets ready; each command is then a fork of the server. In the place of
dbt, the caller starts a client, ready in 15 ms, which takes signals and ends as dbt does.

    server = warm_dbt.start_dbt_server(folder)          # returns at once, once a process
    with server.connect() as connection, serve_tokens(credentials) as tokens:
        descriptors = [connection.fileno(), lock.fileno(), tokens.fileno()]
        subprocess.Popen([*CLIENT, *map(str, descriptors), "run"], pass_fds=descriptors)

The package imports nothing but dbt, google-auth, PyYAML and Python's own library. The processes
talk through sockets without a name, which nobody else on the machine can reach; `server.py` has the
protocol.

| file | in which process |
| --- | --- |
| `tokens.py` | the caller's: it has the credentials; dbt's: it asks for a token of an hour |
| `client.py` | the one that the caller starts |
| `server.py` | the server |
| `process.py`, `confinement.py` | dbt: a fork of the server or, without one, the client's own |

The differences from dbt's command line are in `process.py`; dbt opens the files of its project and
of the packages alone (`confinement.py`). A lock whose descriptor the client passes on is held until
dbt has ended. dbt ends when its client, its server or the caller is gone.

Where a fork is not safe (macOS) there is no server, and the client becomes a plain dbt process.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# Without -S, Python would import `site`, which about doubles the 15 ms of the start; without -I,
# PYTHONPATH could have the client import other modules than Python's own.
CLIENT = (sys.executable, "-I", "-S", str(Path(__file__).with_name("client.py")))

# After SIGINT, dbt has this long to cancel its BigQuery jobs; killed sooner, it would leave them
# running, and billed.
INTERRUPT_SECONDS = 8

# The clients of Prefect and BigQuery wait and retry for minutes in silence: after this long, the
# log says that a service does not answer, or that a call to it keeps failing.
SILENT_SECONDS = 15

# System libraries of macOS may start threads, and a fork then crashes (Python's documentation of
# multiprocessing says so): no server there.
FORKS = sys.platform == "linux"


class DbtServer:
    """A process of `server.py`, which ends when this process ends, even by SIGKILL.

    Attributes:
        process: the server; None where a fork is not safe.
    """

    process: subprocess.Popen[bytes] | None = None

    def __init__(self, folder: Path) -> None:
        """Start the server, which keeps the tiny project that it parses in this folder."""
        self._control, theirs = socket.socketpair()
        with theirs:
            if FORKS:
                self.process = subprocess.Popen(
                    # Without -P, this folder comes first on sys.path: a file here named like a
                    # library's module would hide it, and dbt takes any `dbt_…` for a plugin.
                    [sys.executable, "-P", str(Path(__file__).with_name("server.py")), str(folder)],
                    # A fork's /proc/self/environ stays the server's, whatever the fork removes from
                    # os.environ: code in dbt that reads it must not find PREFECT_API_KEY.
                    env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    # A Ctrl-C on the terminal would end this server too, and dbt's exit code would
                    # be lost. In a session of its own, only the caller stops dbt.
                    start_new_session=True,
                )

    def connect(self) -> socket.socket:
        """Return a client's socket to this server; without a server, it reads EOF."""
        ours, theirs = socket.socketpair()
        with theirs, suppress(OSError):
            socket.send_fds(self._control, [b"\n"], [theirs.fileno()])
        return ours


@functools.cache
def start_dbt_server(folder: Path) -> DbtServer:
    """Return the dbt server of this process, started at the first call."""
    return DbtServer(folder)

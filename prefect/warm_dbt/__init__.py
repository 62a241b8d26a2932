"""Runs dbt commands in forks of a process that has imported dbt once.

dbt is 2,600 modules, three seconds of each command. A server imports them, and rehearses on a tiny
project, while the caller gets ready; each command is then a fork of it. What the caller starts in
the place of dbt is a client that is there in 15 ms: it takes signals, and ends as dbt does.

    server = warm_dbt.start_dbt_server(folder)          # returns at once, once a process
    with server.connect() as connection, serve_tokens(credentials) as tokens:
        descriptors = [connection.fileno(), lock.fileno(), tokens.fileno()]
        subprocess.Popen([*CLIENT, *map(str, descriptors), "run"], pass_fds=descriptors)

It imports nothing but dbt, google-auth, PyYAML and Python's own library. The processes talk through
sockets without a name, which nobody else on the machine can reach; `server.py` has the protocol.

| file | in which process |
| --- | --- |
| `tokens.py` | the caller's: it has the credentials; dbt's: it asks for a token of an hour |
| `client.py` | the one that the caller starts |
| `server.py` | the server |
| `process.py`, `confinement.py` | dbt: a fork of the server or, without one, the client's own |

What differs from dbt's command line is in `process.py`; dbt opens the files of its project and of
the packages alone (`confinement.py`). A lock whose descriptor the client passes on is held until
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

# -I and -S leave out all that would make it slow to start.
CLIENT = (sys.executable, "-I", "-S", str(Path(__file__).with_name("client.py")))

# How long a dbt that is stopped has to cancel its BigQuery jobs, before it is killed.
INTERRUPT_SECONDS = 8

# After how long the log says that a service does not answer, or that a call to it keeps failing.
SILENT_SECONDS = 15

# macOS breaks a process that forks after its frameworks were used.
FORKS = sys.platform == "linux"


class DbtServer:
    """A `server.py`, which ends when this process does, however it ends.

    Attributes:
        process: the server; None where there can be none.
    """

    process: subprocess.Popen[bytes] | None = None

    def __init__(self, folder: Path) -> None:
        """Start the server, which keeps the tiny project that it parses in this folder."""
        self._control, theirs = socket.socketpair()
        with theirs:
            if FORKS:
                self.process = subprocess.Popen(
                    # -P: dbt imports every module of its script's folder named `dbt_…`.
                    [sys.executable, "-P", str(Path(__file__).with_name("server.py")), str(folder)],
                    # Code of dbt reads /proc/self/environ, which in a fork stays that of the
                    # server, whatever it forgets: what opens the Prefect API must not be there.
                    env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    # Ctrl-C is for the caller, which then stops dbt.
                    start_new_session=True,
                )

    def connect(self) -> socket.socket:
        """Return a socket for one client: of this server, or closed if it is gone."""
        ours, theirs = socket.socketpair()
        with theirs, suppress(OSError):
            socket.send_fds(self._control, [b"\n"], [theirs.fileno()])
        return ours


@functools.cache
def start_dbt_server(folder: Path) -> DbtServer:
    """Return the dbt server of this process, started at the first call."""
    return DbtServer(folder)

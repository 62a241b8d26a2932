"""Starts the process that has dbt imported, and connects commands to it.

dbt is 2,600 modules: they are imported while the rest of a run gets ready, and once for all
its commands. The processes talk through sockets without a name, which nobody else on the
machine can reach.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

# macOS breaks a process that forks after its frameworks were used.
FORKS = sys.platform == "linux"


class DbtServer:
    """A `dbt_server.py`, which ends when this process does, however it ends.

    Attributes:
        process: the server; None where there can be none.
    """

    process: subprocess.Popen[bytes] | None = None

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            if FORKS:
                self.process = subprocess.Popen(
                    # -P keeps our modules from those that dbt imports.
                    [sys.executable, "-P", str(Path(__file__).with_name("dbt_server.py"))],
                    # Code of dbt reads /proc/self/environ, which in a fork stays that of the
                    # server, whatever it forgets: what opens the Prefect API must not be there.
                    env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    # Ctrl-C is for the pipeline, which then stops dbt.
                    start_new_session=True,
                )

    def connect(self) -> socket.socket:
        """Return a socket for one `dbt_client.py`: of this server, or closed if it is gone."""
        ours, theirs = socket.socketpair()
        with theirs, suppress(OSError):
            socket.send_fds(self._control, [b"\n"], [theirs.fileno()])
        return ours


@functools.cache
def start_dbt_server() -> DbtServer:
    """Return the dbt server of this process, started at the first call."""
    return DbtServer()

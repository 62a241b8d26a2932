"""Starts servers on 127.0.0.1, among them a temporary Prefect server for a process without one."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

import httpx

from pipeline_errors import InfrastructureError
from pipeline_settings import PROJECT_ROOT

START_TIMEOUT_SECONDS = 90
STOP_TIMEOUT_SECONDS = 10

# From Linux's <sys/prctl.h>.
PR_SET_PDEATHSIG = 1


class LocalServerError(InfrastructureError):
    """A local server, or a command on it, cannot start."""


def _end_with_parent() -> None:
    """Have Linux end this process when its parent is killed: it holds files."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


END_WITH_PARENT = _end_with_parent if sys.platform == "linux" else None


@dataclass
class LocalServer:
    """A server process on 127.0.0.1, started by `start` and ready after `wait_until_ready`."""

    name: str
    command: list[str]
    environment: dict[str, str]
    url: str
    health_path: str
    log: IO[bytes]
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start the process, in a session of its own: Ctrl-C is for the command first."""
        self.process = subprocess.Popen(
            self.command,
            # Where Prefect reads prefect.toml.
            cwd=PROJECT_ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=END_WITH_PARENT,
        )

    def wait_until_ready(self) -> None:
        """Return once the server answers; LocalServerError, with the end of its log, if not."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        # Without TLS, whose certificates take longer to read than the answer.
        with httpx.Client(trust_env=False, verify=False) as client:  # noqa: S501
            while self.process.poll() is None and time.monotonic() < deadline:
                with suppress(httpx.TransportError):
                    if client.get(f"{self.url}{self.health_path}").is_success:
                        return
                time.sleep(0.05)
        self.log.seek(0)
        end = b"".join(self.log.readlines()[-5:]).decode(errors="replace")
        raise LocalServerError(f"{self.name} n'a pas démarré. Fin de son journal :\n{end}")

    def stop(self) -> None:
        """End the process and what it started."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def prefect_server(name: str, environment: Mapping[str, str], log: IO[bytes]) -> LocalServer:
    """Return a Prefect server, to be started, with the settings of this environment."""
    port = free_port()
    return LocalServer(
        name,
        [
            *(sys.executable, "-m", "uvicorn", "--log-level", "warning"),
            *("--factory", "prefect.server.api.server:create_app"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        # Where the pages of the interface look for the API.
        {**environment, "PREFECT_SERVER_API_PORT": str(port)},
        url=f"http://127.0.0.1:{port}",
        health_path="/api/health",
        log=log,
    )


def ensure_prefect_server(while_it_boots: Callable[[], object]) -> None:
    """Start a Prefect server that ends with this process, unless the settings name one.

    Prefect would do so by itself, after it has imported the whole of the server into this
    process. Calls `while_it_boots` in any case. Raises LocalServerError.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    if PREFECT_API_URL.value():
        while_it_boots()
        return
    # As Prefect starts its own: without the interface, and the services it has no use for.
    flags = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    environment = {
        **os.environ,
        **flags,
        "PREFECT_SERVER_UI_ENABLED": "false",
        # Relative to the folder of this process, not to the server's.
        "PREFECT_HOME": str(PREFECT_HOME.value().absolute()),
    }
    log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this process
    server = prefect_server("Le serveur Prefect temporaire", environment, log)
    server.start()
    # Runs after what Prefect registers from now on: its last logs and events still arrive.
    atexit.register(server.stop)
    while_it_boots()
    try:
        server.wait_until_ready()
    except LocalServerError as error:
        raise LocalServerError(
            f"{error}Sa base est peut-être occupée par un autre démarrage : relancez, ou démarrez "
            "un serveur qui reste (`prefect server start`) et donnez son adresse à "
            "PREFECT_API_URL."
        ) from None
    # It has no pages to link to.
    os.environ |= {"PREFECT_API_URL": f"{server.url}/api", "PREFECT_UI_URL": ""}
    refresh_global_settings_context()

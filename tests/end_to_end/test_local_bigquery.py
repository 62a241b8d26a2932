"""The local servers: what they give a command, and that they go away."""

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_socket
from websockets.typing import Subprotocol

from bi_pipeline.lifetime.local_servers import (
    InfrastructureError,
    LocalServer,
    hold_signals,
    listen,
    make_prefect_server,
)
from bi_pipeline.settings import PROJECT_ROOT
from project import connect, read_blocks
from support.child_command import run_command
from support.local_stack import run_local_servers, work_on

pytestmark = pytest.mark.slow

SCRIPT = str(PROJECT_ROOT / "utilities" / "local_bigquery.py")

# Proxies that fail each request through them, as nothing listens there, and that Prefect's client,
# which knows no SOCKS, refuses. no_proxy is empty: they are for this machine as well.
PROXIES = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "127.0.0.1:1"),
    **dict.fromkeys(("all_proxy", "ALL_PROXY"), "socks5://127.0.0.1:1"),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
}

# Code for a command's `python -c`: it makes a client of the local BigQuery.
CLIENT = f"""
import sys
sys.path[:0] = [{str(PROJECT_ROOT / "utilities")!r}, {str(PROJECT_ROOT / "prefect")!r}]
from support.bigquery_access import connect_to_bigquery
client, _ = connect_to_bigquery()
"""

# Runs a command as beside servers, of which there is none.
RUN = f"""
import os, sys
sys.path[:0] = [{str(PROJECT_ROOT / "utilities")!r}, {str(PROJECT_ROOT / "prefect")!r}]
from support.child_command import run_command
sys.exit(run_command(sys.argv[1:], dict(os.environ), []))
"""

# Takes SIGINT whatever the shell that started the tests does with it.
GO = "print('go', flush=True); input()"
SLEEP = (
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "print('go', flush=True); time.sleep(60)"
)


# A pipeline whose dbt waits for BigQuery does not end by SIGINT, and its dbt is in another session:
# if the tool did not kill both, they would go on.
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


@dataclass
class FirstRun:
    """The outcome of a run with a quote in its path, and a file where uploads go by default."""

    data_dir: Path
    temporary: Path
    result: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A fresh start, whose command made the dataset `mine` and ended with 7.

    A damaged database, the name of the folder and a file in the temporary folder are in its way,
    and the user has a file of his own there.
    """
    root = tmp_path_factory.mktemp("first") / "projet d'Alice"
    data_dir, temporary = root / ".local", tmp_path_factory.mktemp("temporary")
    for path, text in {
        data_dir / "bigquery" / "bqemulator.duckdb": "not a database",
        data_dir / "prefect" / "mine.sql": "select 1",
        temporary / "bqemu_uploads": "",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    data_dir.chmod(0o755)
    create = "client.create_dataset('mine'); exit(7)"
    result = run(
        *(data_dir, "--fresh", sys.executable, "-c", CLIENT + create),
        TMPDIR=str(temporary),
        **PROXIES,
    )
    return FirstRun(data_dir, temporary, result)


@pytest.fixture(scope="module")
def data_dir(first_run):
    """A folder that the tests of this file use one after the other, filled once."""
    assert first_run.result.returncode == 7, first_run.result.stderr
    return first_run.data_dir


@pytest.fixture(scope="module")
def running(data_dir, tmp_path_factory):
    """Servers that run on a copy of this folder: the copy, the environment, the servers."""
    copy = tmp_path_factory.mktemp("running") / "data"
    shutil.copytree(data_dir, copy)
    with run_local_servers(copy) as (environment, servers):
        yield copy, environment, servers


@pytest.mark.parametrize(("command", "exit_code"), [("exit 0", 0), ("exit 7", 7), ("kill $$", 143)])
def test_exit_code_of_the_command_is_passed_on(running, command, exit_code):
    _, environment, servers = running

    assert run_command(["bash", "-c", command], environment, servers) == exit_code


def test_command_that_does_not_exist_is_named(running):
    _, environment, servers = running

    with pytest.raises(InfrastructureError, match="no-such-command"):
        run_command(["no-such-command"], environment, servers)


def test_second_start_on_the_same_folder_is_refused(running):
    folder, _, _ = running

    result = run(folder, "true")

    assert result.returncode == 3
    assert str(folder) in result.stderr


def test_two_folders_run_side_by_side(running, local_environment):
    _, environment, _ = running

    assert environment["PREFECT_API_URL"] != local_environment["PREFECT_API_URL"]


def test_next_start_finds_what_an_earlier_one_made(running):
    _, environment, _ = running

    assert connect(environment).get_dataset("mine")


def test_servers_are_stopped_once_the_command_has_ended_even_badly(first_run):
    assert first_run.result.returncode == 7, first_run.result.stderr
    assert processes_using(first_run.data_dir) == []


def test_proxies_of_the_shell_do_not_matter(first_run):
    assert first_run.result.returncode == 7, first_run.result.stderr


def test_folder_whose_name_has_an_apostrophe_works(first_run):
    assert first_run.result.returncode == 7, first_run.result.stderr


def test_folder_is_closed_to_other_users(first_run):
    assert stat.S_IMODE(first_run.data_dir.stat().st_mode) == 0o700


def test_folder_that_others_made_in_the_temporary_folder_does_not_matter(first_run):
    assert first_run.result.returncode == 7, first_run.result.stderr
    assert [path.name for path in first_run.temporary.iterdir()] == ["bqemu_uploads"]


def test_fresh_starts_from_nothing_and_deletes_nothing_of_the_user(first_run, running):
    folder, environment, _ = running

    assert first_run.result.returncode == 7, first_run.result.stderr
    assert connect(environment).get_table("projet_local_raw.flights").num_rows == 336_776
    # A folder of the user may have such a name.
    assert (folder / "prefect" / "mine.sql").read_text() == "select 1"


def test_interruption_reaches_the_command_and_stops_the_servers(data_dir):
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--data-dir", str(data_dir), sys.executable, "-c", SLEEP],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "go\n"

    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=30) == 128 + signal.SIGINT
    assert processes_using(data_dir) == []


@pytest.fixture
def start_beside_no_server():
    """Return a function that starts a command as beside servers; both end with the test."""
    started = []

    def start(code, prefix=()):
        command = [*prefix, sys.executable, "-c", RUN, sys.executable, "-c", code]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        assert process.stdout.readline() == "go\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_reaches_the_command(start_beside_no_server, number):
    process = start_beside_no_server(SLEEP)

    process.send_signal(number)

    assert process.wait(timeout=30) == 128 + number


def test_terminal_that_is_closed_is_nothing_to_a_command_under_nohup(start_beside_no_server):
    process = start_beside_no_server(GO, prefix=["nohup"])

    process.send_signal(signal.SIGHUP)
    process.communicate("\n", timeout=30)

    assert process.returncode == 0


def test_signal_waits_until_python_has_forked():
    received, stop = [], threading.Event()
    # If hold_signals only blocked the signal in this thread, the other one would take it, and
    # Python would run the handler here, during the fork.
    threading.Thread(target=stop.wait, daemon=True).start()
    before = signal.signal(signal.SIGHUP, lambda number, _: received.append(number))

    try:
        with hold_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
            meanwhile = list(received)
    finally:
        signal.signal(signal.SIGHUP, before)
        stop.set()

    assert (meanwhile, received) == ([], [signal.SIGHUP])


def test_signal_during_the_start_stops_the_servers(data_dir):
    process = subprocess.Popen([sys.executable, SCRIPT, "--data-dir", str(data_dir), "true"])
    while not processes_using(data_dir / "bigquery"):
        time.sleep(0.05)

    process.terminate()

    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert processes_using(data_dir) == []


def test_server_that_does_not_start_is_reported_with_the_end_of_its_log(tmp_path):
    (tmp_path / "bigquery").mkdir()
    (tmp_path / "bigquery" / "bqemulator.duckdb").write_text("not a database")

    with pytest.raises(InfrastructureError) as error, run_local_servers(tmp_path):
        pass

    assert "bqemulator" in str(error.value)
    assert "not a valid DuckDB database" in str(error.value)
    assert processes_using(tmp_path) == []


def test_server_that_dies_is_said_at_once_and_ends_a_command_that_is_deaf(data_dir):
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--data-dir", str(data_dir), sys.executable, "-c", DEAF],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "go\n"
    start = time.monotonic()

    os.kill(next(pid for pid, c in processes(data_dir) if "bqemulator" in c), signal.SIGKILL)
    said = process.stderr.readline()
    said_after = time.monotonic() - start
    rest = process.stderr.read()

    assert process.wait() == 3
    assert time.monotonic() - start < 15
    assert said_after < 2
    assert "s'est arrêté" in said
    assert "--fresh" in rest
    assert "make clean" in rest
    assert processes_using(data_dir) == []


def test_server_that_dies_ends_a_command_that_listens_at_once(tmp_path, capsys):
    with (tmp_path / "log").open("w+b") as log:
        server = LocalServer("Le serveur", ["true"], {}, listen(), "", log, "Relancez.")
        server.start()
        start = time.monotonic()

        assert run_command([sys.executable, "-c", SLEEP], dict(os.environ), [server]) == 3

    assert time.monotonic() - start < 5
    assert "Le serveur s'est arrêté" in capsys.readouterr().err


def test_server_that_dies_ends_the_work_on_it(tmp_path):
    with (tmp_path / "log").open("w+b") as log:
        server = LocalServer("Le serveur", ["true"], {}, listen(), "", log, "Relancez.")
        server.start()

        with pytest.raises(InfrastructureError, match="Le serveur s'est arrêté") as error:
            work_on(server, lambda: time.sleep(60))

    assert "Relancez." in str(error.value)


def make_read_only(folder):
    folder.chmod(0o555)
    # Root ignores the mode of a folder unless it drops CAP_DAC_OVERRIDE.
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
        connect_socket(url, subprotocols=[Subprotocol("prefect")], proxy=None) as socket,
        pytest.raises(ConnectionClosed) as refusal,
    ):
        socket.send(json.dumps({"type": "auth", "token": "wrong"}))
        socket.recv(timeout=10)

    assert refusal.value.rcvd.reason == "Invalid token"


def test_secret_of_the_prefect_server_is_in_no_file_and_no_message(local_environment):
    secret = local_environment["PREFECT_API_AUTH_STRING"]
    server = make_prefect_server("", {}, io.BytesIO(), "")
    folder = Path(local_environment["PREFECT_HOME"]).parent

    assert not [command for command in processes_using(folder) if secret in command]
    assert not [x for x in folder.rglob("*") if x.is_file() and secret.encode() in x.read_bytes()]
    assert server.client_environment["PREFECT_API_AUTH_STRING"] not in repr(server)


def test_environment_hides_the_settings_and_keys_of_the_user(local_environment):
    assert "PREFECT_API_KEY" not in local_environment
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in local_environment
    # If it were unset instead of empty, load_dotenv would take the value of the user's .env.
    assert local_environment["GCP_REGION"] == ""

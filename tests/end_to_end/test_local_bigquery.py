"""The local servers: what they give a command, and that they go away."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import psutil
import pytest

from bi_pipeline.lifetime.local_servers import (
    InfrastructureError,
    LocalServer,
    hold_signals,
    listen,
)
from bi_pipeline.settings import PROJECT_ROOT
from project import Project, connect, copy_project, processes, processes_using
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

# Makes what later starts have to find, and ends with 7 when it is interrupted.
FILL = f"""{CLIENT}
import signal, time
mine = client.create_dataset('mine')
mine.description = client.get_table('projet_local_raw.flights').modified.isoformat()
client.update_dataset(mine, ['description'])
client.query_and_wait(
    'create table projet_local_dev.loaded as select * from projet_local_raw.flights'
)
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
print('go', flush=True)
time.sleep(60)
"""

# For BigQuery, which has this table: a merge of most of its rows into it.
LOAD = {
    "models/loaded.sql": (
        "{{ config(materialized='incremental', unique_key=['time_hour', 'carrier', 'flight']) }}"
        "select * from `{{ target.project }}.{{ env_var('DBT_BIGQUERY_DATASET_RAW') }}.flights`"
        "{% if is_incremental() %} where time_hour >= '2013-03-01' {% endif %}"
    ),
}

# Runs a command as beside servers, of which there is none.
RUN = f"""
import os, sys
sys.path[:0] = [{str(PROJECT_ROOT / "utilities")!r}, {str(PROJECT_ROOT / "prefect")!r}]
from support.child_command import run_command
sys.exit(run_command(sys.argv[1:], dict(os.environ), []))
"""

# The same beside a server.
RUN_BESIDE_SERVER = f"""
import os, sys
sys.path[:0] = [{str(PROJECT_ROOT / "utilities")!r}, {str(PROJECT_ROOT / "prefect")!r}]
from bi_pipeline.lifetime.local_servers import LocalServer, listen
from support.child_command import run_command
server = LocalServer("", ["sleep", "60"], {{}}, listen(), "", sys.stderr, "")
server.start()
sys.exit(run_command(sys.argv[1:], dict(os.environ), [server]))
"""

# Takes SIGINT whatever the shell that started the tests does with it.
GO = "print('go', flush=True); input()"
SLEEP = (
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "print('go', flush=True); time.sleep(60)"
)


# A pipeline whose dbt waits for BigQuery does not end by SIGINT, and its dbt is in another session:
# if the tool did not kill both, they would go on. Once deaf, it makes the file that it is given.
DEAF = (
    "import pathlib, signal, subprocess, sys, time;"
    "signal.signal(signal.SIGINT, signal.SIG_IGN); file = pathlib.Path(sys.argv[1]);"
    "subprocess.Popen(['sleep', '60'], start_new_session=True, env={'FILE': str(file)});"
    "file.touch(); time.sleep(60)"
)


def run(data_dir: Path, *command: str, prefix=(), **variables) -> subprocess.CompletedProcess[str]:
    """Run the tool to its end."""
    return subprocess.run(
        [*prefix, sys.executable, SCRIPT, "--data-dir", str(data_dir), *command],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


@dataclass
class FirstRun:
    """The outcome of a run with a quote in its path, and a file where uploads go by default."""

    data_dir: Path
    temporary: Path
    exit_code: int
    stderr: str
    left_running: list[str]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A fresh start, whose command fills it, then ends with 7 when the tool is interrupted.

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
    with subprocess.Popen(
        [sys.executable, SCRIPT, "--data-dir", data_dir, "--fresh", sys.executable, "-c", FILL],
        env=os.environ | {"TMPDIR": str(temporary)} | PROXIES,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # The progress bar of the sample data may print a line before.
        any(line == "go\n" for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    left_running = processes_using(data_dir)
    return FirstRun(data_dir, temporary, process.returncode, stderr, left_running)


@pytest.fixture(scope="module")
def data_dir(first_run):
    """A folder that the tests of this file use one after the other, filled once."""
    assert first_run.exit_code == 7, first_run.stderr
    return first_run.data_dir


@dataclass
class Killed:
    """A pipeline whose local BigQuery was killed during a merge: its words, and what it left.

    Attributes:
        data_dir: the folder of the servers.
        project: that of the pipeline.
        variables: those of the user's shell.
        said_after: the seconds from the kill to what is said of it.
    """

    data_dir: Path
    project: Project
    variables: dict[str, str]
    exit_code: int
    said_after: float
    ended_after: float
    rest: str
    left_running: list[str]


@pytest.fixture(scope="module")
def killed(data_dir, tmp_path_factory, local_environment):
    """On a copy of this folder, a pipeline whose bqemulator is killed during its merge."""
    root = tmp_path_factory.mktemp("killed")
    shutil.copytree(data_dir, root / "data")
    project = copy_project(root, local_environment, LOAD)
    variables = {name: project.environment[name] for name in ("HOME", "TMPDIR", "PATH")}
    pipeline = (sys.executable, project.root / "prefect" / "pipeline.py", "--commands", "run")
    with subprocess.Popen(
        [sys.executable, SCRIPT, "--data-dir", root / "data", *pipeline],
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        before = list(takewhile(lambda line: "START sql incremental" not in line, process.stderr))
        assert process.poll() is None, before
        time.sleep(0.3)
        start = time.monotonic()
        os.kill(next(pid for pid, c in processes(root) if "bqemulator" in c), signal.SIGKILL)
        said = any("s'est arrêté" in line for line in process.stderr)
        said_after = time.monotonic() - start if said else float("inf")
        rest = process.stderr.read()
        exit_code = process.wait()
        ended_after = time.monotonic() - start
    return Killed(
        *(root / "data", project, variables, exit_code, said_after, ended_after, rest),
        left_running=processes_using(root),
    )


@pytest.fixture(scope="module")
def running(killed):
    """Servers that run on the folder that was left: the folder, the environment, the servers."""
    with run_local_servers(killed.data_dir) as (environment, servers):
        yield killed.data_dir, environment, servers


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

    with pytest.raises(InfrastructureError, match=str(folder)), run_local_servers(folder):
        pass


def test_two_folders_run_side_by_side(running, local_environment):
    _, environment, _ = running

    assert environment["PREFECT_API_URL"] != local_environment["PREFECT_API_URL"]


def test_next_start_finds_what_an_earlier_one_made(running):
    _, environment, _ = running

    assert connect(environment).get_dataset("mine")


def test_next_start_changes_the_time_of_no_table(running):
    _, environment, _ = running
    client = connect(environment)

    modified = client.get_table("projet_local_raw.flights").modified

    assert modified.isoformat() == client.get_dataset("mine").description


def test_interruption_reaches_the_command_and_stops_the_servers(first_run):
    """The command chooses how it ends: even badly, no server is left."""
    assert first_run.exit_code == 7, first_run.stderr
    assert first_run.left_running == []


def test_proxies_of_the_shell_do_not_matter(first_run):
    assert first_run.exit_code == 7, first_run.stderr


def test_folder_whose_name_has_an_apostrophe_works(first_run):
    assert first_run.exit_code == 7, first_run.stderr


def test_folder_is_closed_to_other_users(first_run):
    assert stat.S_IMODE(first_run.data_dir.stat().st_mode) == 0o700


def test_folder_that_others_made_in_the_temporary_folder_does_not_matter(first_run):
    assert first_run.exit_code == 7, first_run.stderr
    assert [path.name for path in first_run.temporary.iterdir()] == ["bqemu_uploads"]


def test_fresh_starts_from_nothing_and_deletes_nothing_of_the_user(first_run, running):
    folder, environment, _ = running

    assert first_run.exit_code == 7, first_run.stderr
    assert connect(environment).get_table("projet_local_raw.flights").num_rows == 336_776
    # A folder of the user may have such a name.
    assert (folder / "prefect" / "mine.sql").read_text() == "select 1"


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
    command = ["bash", "-c", "echo not a database; exit 1"]
    with (tmp_path / "log").open("w+b") as log:
        server = LocalServer("Le serveur", command, {}, listen(), "", log, "Relancez.")
        server.start()

        with pytest.raises(InfrastructureError) as error:
            server.wait_until_ready()

    assert "Le serveur n'a pas démarré" in str(error.value)
    assert "not a database" in str(error.value)
    assert "Relancez." in str(error.value)


def test_local_bigquery_that_dies_is_said_at_once_and_ends_the_pipeline(killed):
    """The BigQuery client would wait ten minutes for it to come back."""
    assert killed.exit_code == 3
    assert killed.said_after < 5
    assert killed.ended_after < 15
    assert "--fresh" in killed.rest
    assert "make clean" in killed.rest
    assert killed.left_running == []


def test_run_after_the_local_bigquery_was_killed_loses_no_row(killed, running):
    _, environment, _ = running

    following = killed.project.run_pipeline("--commands", "run", **environment | killed.variables)

    assert following.returncode == 0, following.stderr
    sql = (
        "select count(*), count(distinct concat(cast(time_hour as string), carrier, "
        "cast(flight as string))) from projet_local_dev.loaded"
    )
    counts = connect(environment).query_and_wait(sql).to_arrow().to_pylist()[0].values()
    assert list(counts) == [336_776, 336_776]


def test_servers_and_command_end_with_a_tool_that_is_killed():
    """If a server went on, it would keep its database locked, and the next start would fail."""
    command = [sys.executable, "-c", RUN_BESIDE_SERVER, sys.executable, "-c", SLEEP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "go\n"
        family = psutil.Process(process.pid).children()
        process.kill()

    assert len(family) == 2
    assert psutil.wait_procs(family, timeout=15)[1] == []


def test_server_that_dies_ends_a_command_that_is_deaf(tmp_path):
    # The server dies once the command no longer listens.
    server_command = ["bash", "-c", f"until [ -e {tmp_path}/deaf ]; do sleep 0.1; done"]
    command = [sys.executable, "-c", DEAF, str(tmp_path / "deaf")]
    with (tmp_path / "log").open("w+b") as log:
        server = LocalServer("Le serveur", server_command, {}, listen(), "", log, "Relancez.")
        server.start()
        start = time.monotonic()

        assert run_command(command, dict(os.environ), [server]) == 3

    assert time.monotonic() - start < 20
    assert processes_using(tmp_path) == []


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


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (make_read_only, "Permission denied"),
        (limit_the_size_of_files, "File too large"),
    ],
)
def test_read_only_or_full_folder_is_named_with_the_remedy(damage, reason, tmp_path):
    prefix = damage(tmp_path)

    result = run(tmp_path, "true", prefix=prefix)

    assert result.returncode == 3
    assert reason in result.stderr
    assert str(tmp_path) in result.stderr.splitlines()[-1]
    assert "--fresh" in result.stderr.splitlines()[-1]
    assert "make clean" in result.stderr.splitlines()[-1]
    assert "Traceback (most recent call last):" not in result.stderr.splitlines()[0]
    assert processes_using(tmp_path) == []

"""A run that is stopped, or killed, in the middle of an incremental load; and the next one."""

import fcntl
import os
import select
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from prefect.states import Cancelling

from fault_proxy import fault_proxy
from project import connect, copy_project, last_run, prefect_client
from support.local_stack import run_local_servers

pytestmark = pytest.mark.slow

MODELS = {
    "models/first.sql": "{{ config(materialized='table') }} select 1 as id union all select 2",
    "models/second.sql": (
        "{{ config(materialized='incremental', unique_key='id') }}"
        "select id, '{{ run_started_at }}' as loaded_at from {{ ref('first') }}"
    ),
    "models/third.sql": (
        "{{ config(materialized='table') }} select count(*) as ids from {{ ref('second') }}"
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    """A project whose second model is already loaded: the next run merges into it."""
    project = copy_project(tmp_path_factory.mktemp("stopped"), local_environment, MODELS)
    assert project.run_pipeline("--commands", "run").returncode == 0
    return project


@pytest.fixture
def proxy(local_environment):
    with fault_proxy(local_environment["DBT_BIGQUERY_API_ENDPOINT"]) as proxy:
        yield proxy


def ignore_sigint():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def in_terminal(terminal):
    """Return a preexec_fn that makes a new process the leader of this terminal, as a shell is."""

    def take():
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    return take


@contextmanager
def drained(master):
    """Read what comes to a terminal, until the end of the block."""
    finished = threading.Event()

    def drain():
        while not finished.is_set():
            if select.select([master], [], [], 0.05)[0]:
                os.read(master, 65_536)

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


@contextmanager
def pipeline_during_the_merge(project, proxy, *, prepare=None, terminal=None, **variables):
    """Yield a pipeline at the moment when the query of its second model is under way.

    Args:
        prepare: what the new process does before it becomes the pipeline.
        terminal: descriptor of what it reads from and writes to.
    """
    reached, release = threading.Event(), threading.Event()

    def hold(node: str) -> None:
        if node == "second":
            reached.set()
            release.wait(60)

    proxy.on_query = hold
    process = subprocess.Popen(
        [sys.executable, str(project.root / "prefect" / "pipeline.py"), "--commands", "run"],
        env=project.environment | {"DBT_BIGQUERY_API_ENDPOINT": proxy.url} | variables,
        cwd="/",
        stdin=terminal or subprocess.DEVNULL,
        stdout=terminal or subprocess.PIPE,
        stderr=terminal or subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )
    try:
        assert reached.wait(90), process.communicate(timeout=1)
        yield process
    finally:
        release.set()
        process.kill()
        process.wait()
        proxy.on_query = lambda _: None


def start(project, *arguments):
    """Start a pipeline of the project; return its process."""
    return subprocess.Popen(
        [sys.executable, str(project.root / "prefect" / "pipeline.py"), *arguments],
        env=project.environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(project):
    """Return the processes whose environment names a folder of this project."""
    folder = str(project.root.parent).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            environment = (path / "environ").read_bytes()
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if folder in environment and command:
            found.append((int(path.name), command))
    return found


def left_running(project):
    """Return the processes of this project that go on, once each had its time to end."""
    deadline = time.monotonic() + 5
    while (found := processes_of(project)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@dataclass
class Left:
    """The traces of a stopped pipeline: by default none, its job in BigQuery cancelled."""

    exit_code: int
    state: str
    traceback: bool = False
    cancelled: list[str] = field(default_factory=lambda: ["second"])
    processes: list[tuple[int, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    stderr: str = field(default="", compare=False)


def state_in_prefect(environment, name):
    """Return whether the last run to start gets a state of this name within five seconds."""
    deadline = time.monotonic() + 5
    with prefect_client(environment) as client:
        while time.monotonic() < deadline:
            if last_run(client).state.name == name:
                return True
            time.sleep(0.1)
    return False


def end(process, project, proxy, server):
    """Wait for the end of a pipeline that was stopped; return what it leaves."""
    _, stderr = process.communicate(timeout=60)
    with closing(sqlite3.connect(f"{server['PREFECT_HOME']}/prefect.db")) as database:
        last = "select state_type from flow_run order by end_time desc limit 1"
        (state,) = database.execute(last).fetchone()
    return Left(
        process.returncode,
        state,
        "Traceback" in (stderr or ""),
        proxy.cancelled,
        left_running(project),
        list((project.root.parent / "tmp").iterdir()),
        stderr or "",
    )


def rows(bigquery, project):
    dataset = project.environment["DBT_BIGQUERY_DATASET_DEV"]
    result = bigquery.query_and_wait(
        f"select id, (select ids from {dataset}.third) as ids from {dataset}.second order by id"
    )
    return [tuple(row.values()) for row in result]


@pytest.fixture(scope="module")
def interrupted(project, bigquery, local_environment):
    """A run in dev, one in prod meanwhile, Ctrl-C for the first, and the next one in dev."""
    with (
        fault_proxy(local_environment["DBT_BIGQUERY_API_ENDPOINT"]) as proxy,
        pipeline_during_the_merge(project, proxy) as process,
    ):
        prod = project.run_pipeline("--target", "prod", "--commands", "run")
        goes_on = process.poll() is None
        process.send_signal(signal.SIGINT)
        left = end(process, project, proxy, local_environment)
    following = project.run_pipeline("--commands", "run")
    return SimpleNamespace(
        prod=prod, goes_on=goes_on, left=left, following=following, rows=rows(bigquery, project)
    )


def test_dev_and_prod_do_not_wait_for_each_other(interrupted):
    assert interrupted.goes_on
    assert interrupted.prod.returncode == 0, interrupted.prod.stderr
    assert "attend" not in interrupted.prod.stderr


def test_ctrl_c_leaves_nothing(interrupted):
    assert interrupted.left == Left(130, "CRASHED")


def test_run_after_a_stopped_one_does_not_wait_and_loses_no_row(interrupted):
    assert interrupted.following.returncode == 0, interrupted.following.stderr
    assert "attend" not in interrupted.following.stderr
    assert interrupted.rows == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("number", "prepare", "exit_code"),
    [(signal.SIGINT, None, 130), (signal.SIGTERM, ignore_sigint, 143)],
    ids=["Ctrl-C", "SIGTERM in the background"],
)
def test_stopped_run_leaves_nothing_not_even_its_temporary_prefect_server(
    number, prepare, exit_code, project, proxy, without_prefect_server
):
    """A script's `&` has SIGINT ignored: if dbt inherited that, the pipeline could not stop it."""
    with pipeline_during_the_merge(
        project, proxy, prepare=prepare, **without_prefect_server
    ) as process:
        process.send_signal(number)

        assert end(process, project, proxy, without_prefect_server) == Left(exit_code, "CRASHED")


def test_cancellation_from_the_interface_leaves_nothing_and_the_next_run_loses_no_row(
    project, proxy, bigquery, local_environment
):
    with (
        pipeline_during_the_merge(project, proxy) as process,
        prefect_client(local_environment) as client,
    ):
        client.set_flow_run_state(last_run(client).id, Cancelling())

        assert end(process, project, proxy, local_environment) == Left(143, "CANCELLED")
    following = project.run_pipeline("--commands", "run")

    assert following.returncode == 0, following.stderr
    assert "attend" not in following.stderr
    assert rows(bigquery, project) == [(1, 2), (2, 2)]


def test_closed_terminal_ends_the_run_as_a_termination_does(project, proxy, local_environment):
    master, terminal = os.openpty()
    with ExitStack() as reading:
        reading.enter_context(drained(master))
        with pipeline_during_the_merge(
            project, proxy, prepare=in_terminal(terminal), terminal=terminal
        ) as process:
            reading.close()
            os.close(terminal)
            os.close(master)

            assert end(process, project, proxy, local_environment) == Left(143, "CRASHED")


def test_run_that_takes_longer_than_it_may_leaves_nothing(project, proxy, local_environment):
    limit = {"DBT_RUN_TIMEOUT_SECONDS": "12"}
    with pipeline_during_the_merge(project, proxy, **limit) as process:
        left = end(process, project, proxy, local_environment)

    assert left == Left(143, "FAILED")
    assert left.stderr.splitlines()[-1].startswith("Arrêtée au bout de 12 s")


def test_killed_flow_leaves_no_dbt_and_the_next_run_loses_no_row(project, proxy, bigquery):
    with pipeline_during_the_merge(project, proxy) as process:
        process.kill()
        process.wait()
        # Once its pipeline has gone, dbt has eight seconds to cancel its query (INTERRUPT_SECONDS).
        alive = [psutil.Process(pid) for pid, _ in processes_of(project)]
        assert psutil.wait_procs(alive, timeout=15)[1] == []
    following = project.run_pipeline("--commands", "run")

    assert following.returncode == 0, following.stderr
    assert rows(bigquery, project) == [(1, 2), (2, 2)]


def test_second_run_waits_for_the_first_and_names_it(project, proxy, bigquery, local_environment):
    with pipeline_during_the_merge(project, proxy) as process:
        following = start(project, "--commands", "run")
        waits = next(line for line in following.stderr if "celle-ci attend" in line)
        assert f"Une autre pipeline (processus {process.pid}, depuis le " in waits
        assert state_in_prefect(local_environment, "En attente")
        time.sleep(3)
        assert following.poll() is None

    _, stderr = following.communicate(timeout=120)

    # If the pipeline said again and again that it waits, other lines would come before dbt's first.
    assert "Running with dbt" in stderr.splitlines()[0]
    assert following.returncode == 0, stderr
    assert rows(bigquery, project) == [(1, 2), (2, 2)]
    assert left_running(project) == []
    lock = project.root / "dbt" / "target" / "dev" / ".lock"
    # If another user could open the file, they could hold the lock, and no run would start.
    assert (lock.stat().st_mode & 0o777, lock.read_text()) == (0o600, "")


def test_killed_dbt_is_named_and_the_next_run_works(project, proxy, bigquery):
    with pipeline_during_the_merge(project, proxy) as process:
        servers = [
            psutil.Process(pid) for pid, c in processes_of(project) if "warm_dbt/server.py" in c
        ]
        # dbt has the command line of the server that has forked it: it is the child of the two.
        (dbt,) = [server for server in servers if server.parent() in servers]
        dbt.kill()
        _, stderr = process.communicate(timeout=60)

    following = project.run_pipeline("--commands", "run")

    assert process.returncode == 1
    assert "dbt run a échoué : le processus dbt a été tué" in stderr.splitlines()[-1]
    assert following.returncode == 0, following.stderr
    assert rows(bigquery, project) == [(1, 2), (2, 2)]


@pytest.mark.parametrize("service", ["L'API Prefect", "BigQuery"])
def test_service_that_dies_is_said_and_ctrl_c_still_ends_the_run(
    service, project, proxy, without_prefect_server
):
    with pipeline_during_the_merge(project, proxy, **without_prefect_server) as process:
        if service == "BigQuery":
            proxy.die()
        else:
            server = next(pid for pid, command in processes_of(project) if "uvicorn" in command)
            os.kill(server, signal.SIGKILL)
        died = time.monotonic()
        said = next(line for line in process.stderr if "ne répond plus" in line)

        assert time.monotonic() - died < 30
        assert service in said
        process.send_signal(signal.SIGINT)
        process.wait(timeout=15)

    assert process.returncode == 130
    assert left_running(project) == []


LOAD = {
    "models/loaded.sql": (
        "{{ config(materialized='incremental', unique_key=['time_hour', 'carrier', 'flight']) }}"
        "select * from `{{ target.project }}.{{ env_var('DBT_BIGQUERY_DATASET_RAW') }}.flights`"
        "{% if is_incremental() %} where time_hour >= '2013-03-01' {% endif %}"
    ),
}


def test_killed_local_bigquery_loses_no_row(tmp_path, local_environment):
    """bqemulator is killed first, then the launcher, with which its servers have to end."""
    project = copy_project(tmp_path, local_environment, LOAD)
    variables = {name: project.environment[name] for name in ("HOME", "TMPDIR", "PATH")}
    demo = [
        *(sys.executable, str(project.root / "utilities" / "local_bigquery.py")),
        *(sys.executable, str(project.root / "prefect" / "pipeline.py"), "--commands", "run"),
    ]
    subprocess.run(demo, env=variables, check=True, capture_output=True)

    log = tmp_path / "demo.log"
    for victim, exit_code in (("bqemulator", 3), ("local_bigquery.py", -signal.SIGKILL)):
        with log.open("w") as stderr, subprocess.Popen(demo, env=variables, stderr=stderr) as run:
            while "START sql incremental" not in log.read_text():
                assert run.poll() is None, log.read_text()
                time.sleep(0.05)
            time.sleep(0.3)
            os.kill(next(pid for pid, c in processes_of(project) if victim in c), signal.SIGKILL)
            # The BigQuery client would wait ten minutes for it to come back.
            assert run.wait(timeout=15) == exit_code
    following = subprocess.run(demo, env=variables, capture_output=True, text=True, timeout=200)

    assert following.returncode == 0, following.stderr
    with run_local_servers(project.root / ".local") as (environment, _):
        sql = (
            "select count(*), count(distinct concat(cast(time_hour as string), carrier, "
            "cast(flight as string))) from projet_local_dev.loaded"
        )
        counts = connect(environment).query_and_wait(sql).to_arrow().to_pylist()[0].values()
    assert list(counts) == [336_776, 336_776]

"""A run that is stopped, or killed, in the middle of an incremental load; and the next one."""

import fcntl
import os
import re
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
from project import copy_prefect_database, copy_project, last_run, prefect_client

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
def pipeline_during_the_merge(
    project, proxy, target="dev", *, prepare=None, terminal=None, **variables
):
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
    script = str(project.root / "prefect" / "pipeline.py")
    process = subprocess.Popen(
        [sys.executable, script, "--target", target, "--commands", "run"],
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
def stopped(project, bigquery, local_environment, tmp_path_factory):
    """One run in dev and one in prod, at once; the end of both; and the next run in dev.

    Ctrl-C ends the first, which has a temporary Prefect server. The time limit ends the second, by
    a SIGTERM: a script's `&` has SIGINT ignored, and if dbt inherited that, the pipeline could not
    stop it.
    """
    home = tmp_path_factory.mktemp("prefect") / "home"
    copy_prefect_database(Path(local_environment["PREFECT_HOME"]), home)
    alone = {"PREFECT_API_URL": "", "PREFECT_HOME": str(home)}
    limit = {"DBT_RUN_TIMEOUT_SECONDS": "12"}
    endpoint = local_environment["DBT_BIGQUERY_API_ENDPOINT"]
    with (
        fault_proxy(endpoint) as dev_proxy,
        fault_proxy(endpoint) as prod_proxy,
        pipeline_during_the_merge(project, dev_proxy, **alone) as dev,
        pipeline_during_the_merge(
            project, prod_proxy, "prod", prepare=ignore_sigint, **limit
        ) as prod,
    ):
        goes_on = dev.poll() is None
        dev.send_signal(signal.SIGINT)
        prod.wait(60)
        left = end(dev, project, dev_proxy, alone)
        left_in_prod = end(prod, project, prod_proxy, local_environment)
    with prefect_client(local_environment) as client:
        dataset = project.environment["DBT_BIGQUERY_DATASET_PROD"].replace("_", "-")
        pages = [page.data for page in client.read_artifacts() if page.key.endswith(dataset)]
    following = project.run_pipeline("--commands", "run")
    return SimpleNamespace(
        pages=pages,
        goes_on=goes_on,
        left=left,
        left_in_prod=left_in_prod,
        following=following,
        rows=rows(bigquery, project),
    )


def test_dev_and_prod_do_not_wait_for_each_other(stopped):
    assert stopped.goes_on
    assert "attend" not in stopped.left_in_prod.stderr


def test_ctrl_c_leaves_nothing_not_even_the_temporary_prefect_server(stopped):
    assert stopped.left == Left(130, "CRASHED")


def test_run_in_the_background_that_takes_longer_than_it_may_leaves_nothing(stopped):
    assert stopped.left_in_prod == Left(143, "FAILED")
    last_line = stopped.left_in_prod.stderr.splitlines()[-1]
    assert last_line.startswith("Arrêtée au bout de 12 s")


def test_run_that_takes_longer_than_it_may_has_a_page_of_what_was_done(stopped):
    (page,) = stopped.pages

    assert page.startswith("# dbt run : interrompu\n")
    assert re.search(r"^- interrompu : \*\*second\*\*, en cours depuis \d+ s$", page, re.MULTILINE)
    assert "| réussi | [first](" in page
    assert "third" not in page


def test_run_after_a_stopped_one_does_not_wait_and_loses_no_row(stopped):
    assert stopped.following.returncode == 0, stopped.following.stderr
    assert "attend" not in stopped.following.stderr
    assert stopped.rows == [(1, 2), (2, 2)]


def test_cancellation_from_the_interface_leaves_nothing(project, proxy, local_environment):
    with (
        pipeline_during_the_merge(project, proxy) as process,
        prefect_client(local_environment) as client,
    ):
        client.set_flow_run_state(last_run(client).id, Cancelling())

        assert end(process, project, proxy, local_environment) == Left(143, "CANCELLED")


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


def kill_dbt(project):
    """Kill the dbt of the only pipeline of this project."""
    servers = [psutil.Process(pid) for pid, c in processes_of(project) if "warm_dbt/server.py" in c]
    # dbt has the command line of the server that has forked it: it is the child of the two.
    (dbt,) = [server for server in servers if server.parent() in servers]
    dbt.kill()


@pytest.fixture(scope="module")
def killed(project, bigquery, local_environment):
    """A run whose dbt is killed; one that is killed itself; and one that waits for that one."""
    with fault_proxy(local_environment["DBT_BIGQUERY_API_ENDPOINT"]) as proxy:
        with pipeline_during_the_merge(project, proxy) as without_dbt:
            kill_dbt(project)
            _, stderr = without_dbt.communicate(timeout=60)
        with pipeline_during_the_merge(project, proxy) as process:
            family = [psutil.Process(pid) for pid, _ in processes_of(project)]
            following = start(project, "--commands", "run")
            waits = next(line for line in following.stderr if "celle-ci attend" in line)
            said_in_prefect = state_in_prefect(local_environment, "En attente")
            time.sleep(3)
            goes_on = following.poll() is None
            process.kill()
            process.wait()
            # Once its pipeline has gone, dbt has eight seconds to cancel its query
            # (INTERRUPT_SECONDS).
            _, alive = psutil.wait_procs(family, timeout=15)
    _, following_stderr = following.communicate(timeout=120)
    return SimpleNamespace(
        without_dbt=(without_dbt.returncode, stderr.splitlines()[-1]),
        pid=process.pid,
        waits=waits,
        said_in_prefect=said_in_prefect,
        goes_on=goes_on,
        alive=alive,
        following=(following.returncode, following_stderr),
        rows=rows(bigquery, project),
        left_running=left_running(project),
    )


def test_killed_dbt_is_named(killed):
    exit_code, last_line = killed.without_dbt

    assert exit_code == 1
    assert "dbt run a échoué : le processus dbt a été tué" in last_line


def test_second_run_waits_for_the_first_and_names_it(killed, project):
    assert f"Une autre pipeline (processus {killed.pid}, depuis le " in killed.waits
    assert killed.said_in_prefect
    assert killed.goes_on
    # If the pipeline said again and again that it waits, other lines would come before dbt's first.
    assert "Running with dbt" in killed.following[1].splitlines()[0]
    lock = project.root / "dbt" / "target" / "dev" / ".lock"
    # If another user could open the file, they could hold the lock, and no run would start.
    assert (lock.stat().st_mode & 0o777, lock.read_text()) == (0o600, "")


def test_killed_flow_leaves_no_dbt(killed):
    assert killed.alive == []


def test_run_after_killed_ones_works_loses_no_row_and_leaves_nothing(killed):
    exit_code, stderr = killed.following

    assert exit_code == 0, stderr
    assert killed.rows == [(1, 2), (2, 2)]
    assert killed.left_running == []


def test_services_that_die_are_said_and_ctrl_c_still_ends_the_run(
    project, proxy, without_prefect_server
):
    with pipeline_during_the_merge(project, proxy, **without_prefect_server) as process:
        server = next(pid for pid, command in processes_of(project) if "uvicorn" in command)
        os.kill(server, signal.SIGKILL)
        proxy.die()
        died = time.monotonic()
        lines = (line for line in process.stderr if "ne répond plus" in line)
        said = next(lines) + next(lines)

        assert time.monotonic() - died < 30
        assert "L'API Prefect (http" in said
        assert "BigQuery (http" in said
        process.send_signal(signal.SIGINT)
        process.wait(timeout=15)

    assert process.returncode == 130
    assert left_running(project) == []

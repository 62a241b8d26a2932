"""The process that has dbt imported: what it runs, and how it ends with those around it."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from google.oauth2.service_account import Credentials

import warm_dbt
from bi_pipeline.settings import PROJECT_ROOT, REHEARSAL_DIR
from support.local_content import UNIVERSE_DOMAIN, make_throwaway_key
from warm_dbt.tokens import serve_tokens

PROFILE = """\
rehearsal:
  target: dev
  outputs:
    dev: {type: bigquery, method: oauth-secrets, token: x, project: p, schema: s, threads: 1}
"""
# Prints what a model sees of the environment. Without these options, dbt would ask BigQuery, which
# is not there.
SHOW = [
    *("--quiet", "compile", "--no-introspect", "--no-populate-cache", "--inline"),
    "select '{{ env_var('FIRST', 'absent') }}', '{{ env_var('SECOND', 'absent') }}'",
]
# A command that takes minutes, unless it is interrupted.
LAST = [
    *("compile", "--no-introspect", "--no-populate-cache", "--inline"),
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
]


# A command that takes minutes in one call of `re`, which holds the GIL: no other thread of dbt can
# run, the one that watches the pipeline included.
HOLDS_PYTHON = [*LAST[:-1], "{% set x = modules.re.match('(a|a)+$', 'a' * 60 ~ 'b') %}"]


@pytest.fixture(scope="module")
def python_path(tmp_path_factory):
    """A folder that the PYTHONPATH of the server names, by a link."""
    folder = tmp_path_factory.mktemp("python-path")
    (folder / "link").symlink_to(".")
    return folder


@pytest.fixture(scope="module")
def server(python_path):
    """A server for the tests that leave it alive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(python_path / "link"))
        return warm_dbt.DbtServer(REHEARSAL_DIR)


def make_dbt_project(root):
    folder = root / "dbt"
    folder.mkdir()
    (folder / "dbt_project.yml").write_text("{name: rehearsal, profile: rehearsal}")
    (folder / "profiles.yml").write_text(PROFILE)
    return folder


@pytest.fixture
def dbt_project(tmp_path):
    return make_dbt_project(tmp_path)


def start(server, folder, *arguments, **variables):
    """Start a client of the server, as DbtCoreOperation does."""
    credentials = Credentials.from_service_account_info(make_throwaway_key(), scopes=["any"])
    with (
        server.connect() as connection,
        serve_tokens(credentials) as tokens,
        (folder / "lock").open("w") as lock,
    ):
        descriptors = [connection.fileno(), lock.fileno(), tokens.fileno()]
        return subprocess.Popen(
            [*warm_dbt.CLIENT, *map(str, descriptors), *arguments],
            cwd=folder,
            env=os.environ | {"GOOGLE_CLOUD_UNIVERSE_DOMAIN": UNIVERSE_DOMAIN} | variables,
            pass_fds=descriptors,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def test_second_command_has_nothing_of_the_environment_of_the_first(server, dbt_project):
    outputs = []
    for variables in ({"FIRST": "1"}, {"SECOND": "2"}):
        with start(server, dbt_project, *SHOW, **variables) as client:
            outputs.append(client.communicate()[0].strip())

    assert outputs == ["select '1', 'absent'", "select 'absent', '2'"]


def test_exit_code_and_errors_are_those_of_dbt(server, dbt_project):
    with start(server, dbt_project, "run", "--no-such-option") as client:
        _, errors = client.communicate()

    assert client.returncode == 2
    assert "No such option" in errors


def test_nobody_else_can_reach_the_server(server):
    process = psutil.Process(server.process.pid)

    assert {connection.laddr for connection in process.net_connections("all")} == {""}


@pytest.mark.parametrize(
    "forks", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["fork", "plain process"]
)
def test_package_whose_link_leads_out_is_refused(forks, server, dbt_project, monkeypatch):
    monkeypatch.setattr(warm_dbt, "FORKS", forks)
    spy = dbt_project / "dbt_packages" / "spy"
    (spy / "models").mkdir(parents=True)
    (dbt_project / "packages.yml").write_text("packages: [{local: spy}]")
    (spy / "dbt_project.yml").write_text("name: spy")
    (dbt_project.parent / "key.json").write_text("the_key")
    (spy / "models" / "key.sql").symlink_to("../../../../key.json")

    if not forks:
        server = warm_dbt.DbtServer(REHEARSAL_DIR)
    with start(server, dbt_project, "parse") as client:
        output, errors = client.communicate()

    assert client.returncode != 0
    assert "key.sql : la pipeline ne laisse dbt lire que le projet" in output + errors


@pytest.mark.slow
def test_documentation_with_assets_is_made_twice(server, dbt_project):
    """The second time, dbt removes the copies that the first has made."""
    (dbt_project / "assets").mkdir()
    (dbt_project / "assets" / "logo.svg").write_text("<svg/>")
    (dbt_project / "dbt_project.yml").write_text(
        "{name: rehearsal, profile: rehearsal, asset-paths: [assets]}"
    )

    for _ in range(2):
        with start(server, dbt_project, "docs", "generate", "--empty-catalog") as client:
            output, _ = client.communicate()

    assert client.returncode == 0, output
    assert (dbt_project / "target" / "assets" / "logo.svg").read_text() == "<svg/>"


def test_neither_pythonpath_nor_packages_open_the_folder_of_the_keys(server, python_path):
    dbt_project = make_dbt_project(python_path)
    (python_path / "keys").mkdir()
    (python_path / "keys" / "key.json").write_text("the_key")
    (dbt_project / "dbt_project.yml").write_text(
        "{name: a, profile: rehearsal, packages-install-path: ../keys}"
    )
    reads = "{{ ref.config.args.LOG_PATH.joinpath('../../keys/key.json').read_text() }}"
    command = [*SHOW[:-1], reads]

    with start(server, dbt_project, *command, PYTHONPATH=str(python_path / "link")) as client:
        output, errors = client.communicate()

    assert "the_key" not in output + errors
    assert "la pipeline ne laisse dbt lire que le projet" in output + errors


def test_documentation_neither_copies_nor_empties_a_folder_outside(server, dbt_project):
    """dbt empties `target/<asset-path>`, then copies the folder there."""
    (dbt_project.parent / "keys").mkdir()
    (dbt_project.parent / "keys" / "key.json").write_text("the_key")
    (dbt_project / "dbt_project.yml").write_text(
        "{name: rehearsal, profile: rehearsal, asset-paths: [../../keys, ../keys]}"
    )

    with start(server, dbt_project, "docs", "generate", "--empty-catalog") as client:
        output, errors = client.communicate()

    assert (dbt_project.parent / "keys" / "key.json").read_text() == "the_key"
    assert [path for path in dbt_project.rglob("key.json")] == []
    assert "la pipeline ne laisse dbt lire" in output + errors


@contextmanager
def held_command(server, dbt_project):
    """Yield a command that has just begun: its client, the server and the dbt of it."""
    with start(server, dbt_project, "compile") as client:
        assert "Running with dbt" in client.stdout.readline()
        process = psutil.Process(server.process.pid)
        # The resource tracker of multiprocessing is a child of the server too.
        (dbt,) = [child for child in process.children() if "server.py" in " ".join(child.cmdline())]
        yield client, process, dbt


@pytest.fixture
def held(server, dbt_project):
    """A command of the server that has just begun."""
    with held_command(server, dbt_project) as held:
        yield held


def test_dbt_is_a_fork_of_a_server_without_a_thread_that_it_would_wait_for(held):
    """But the thread of pyarrow's allocator, jemalloc_bg_thd, which handles forks itself."""
    _, server, dbt = held
    threads = [path.read_text().strip() for path in Path(f"/proc/{server.pid}/task").glob("*/comm")]

    assert dbt.cmdline() == server.cmdline()
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "exit_code"), [("client", -signal.SIGKILL), ("dbt", 137)])
def test_when_the_client_or_dbt_is_killed_dbt_ends_and_the_client_tells(victim, exit_code, held):
    client, _, dbt = held

    (client if victim == "client" else dbt).kill()

    assert client.wait(timeout=30) == exit_code
    assert psutil.wait_procs([dbt], timeout=30)[1] == []


@pytest.mark.slow
def test_when_the_server_is_killed_dbt_ends_and_a_plain_process_runs_the_next(dbt_project):
    server = warm_dbt.DbtServer(REHEARSAL_DIR)
    with held_command(server, dbt_project) as (client, process, dbt):
        process.kill()

        assert client.wait(timeout=30) == 137
        assert psutil.wait_procs([dbt], timeout=30)[1] == []
    with start(server, dbt_project, *SHOW, FIRST="1") as client:
        output, _ = client.communicate()

    assert (client.returncode, output.strip()) == (0, "select '1', 'absent'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forks", "command"), [(True, HOLDS_PYTHON), (False, LAST)], ids=["fork", "plain process"]
)
def test_dbt_never_holds_what_opens_the_prefect_api_and_ends_when_its_pipeline_is_killed(
    forks, command, dbt_project
):
    """/proc shows the variables that a process was started with, even those that it removes.

    The client is in a process group of its own, which a closed terminal does not reach.
    """
    code = f"""
import sys; sys.path += {[str(PROJECT_ROOT / folder) for folder in ("prefect", "utilities")]!r}
sys.path.append({str(Path(__file__).parents[1])!r})
from pathlib import Path
import warm_dbt
from end_to_end.test_dbt_server import start
warm_dbt.FORKS = {forks}
server = warm_dbt.DbtServer(Path({str(REHEARSAL_DIR)!r}))
client = start(server, Path({str(dbt_project)!r}), *{command!r})
print(client.stdout.readline(), flush=True)
client.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PREFECT_API_KEY": "pnu_secret"},
        stdout=subprocess.PIPE,
        text=True,
    ) as pipeline:
        assert "Running with dbt" in pipeline.stdout.readline()
        family = psutil.Process(pipeline.pid).children(recursive=True)
        environments = [
            Path(f"/proc/{process.pid}/environ").read_bytes()
            for process in family
            # The client of a server is not dbt. Without a server, it has become dbt.
            if "client.py" not in " ".join(process.cmdline())
        ]
        pipeline.kill()

    assert len(environments) > forks
    assert not any(b"pnu_secret" in environment for environment in environments)
    # The resource tracker of multiprocessing, in `family` too, ends with the server.
    assert psutil.wait_procs(family, timeout=20)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_client_reaches_dbt(number, held):
    client, _, dbt = held

    client.send_signal(number)

    assert client.wait(timeout=30) != 0
    assert psutil.wait_procs([dbt], timeout=30)[1] == []


@pytest.mark.slow
def test_server_ends_with_the_process_that_started_it():
    code = (
        f"import os, psutil, sys; sys.path.insert(0, {str(PROJECT_ROOT / 'prefect')!r});"
        f"import pathlib, warm_dbt; warm_dbt.DbtServer(pathlib.Path({str(REHEARSAL_DIR)!r}));"
        "print(psutil.Process().children()[0].pid, flush=True); os.abort()"
    )
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(run.stdout)

    alive = [psutil.Process(pid)] if psutil.pid_exists(pid) else []
    assert psutil.wait_procs(alive, timeout=30)[1] == []


def test_server_is_started_before_prefect_is_imported():
    code = f"""
import psutil, runpy, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "prefect":
            raise SystemExit(str([child.cmdline() for child in psutil.Process().children()]))
sys.meta_path.insert(0, Finder())
sys.path.insert(0, {str(PROJECT_ROOT / "prefect")!r})
runpy.run_path({str(PROJECT_ROOT / "prefect" / "pipeline.py")!r}, run_name="__main__")
"""

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "warm_dbt/server.py" in run.stderr

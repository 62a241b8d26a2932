"""A bad state that an earlier run, another program or the disk has left."""

import sqlite3
import subprocess
import sys

import pytest

from project import ONE_MODEL, copy_project


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    return copy_project(tmp_path_factory.mktemp("state"), local_environment, ONE_MODEL)


@pytest.fixture
def target(project):
    folder = project.root / "dbt" / "target" / "dev"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_half_written_files_of_an_earlier_run_do_not_matter(project, target):
    """Neither dbt's partial parse, nor its results, nor its manifest."""
    # A MessagePack map whose key has only one of its five characters.
    (target / "partial_parse.msgpack").write_bytes(b"\x81\xa5n")
    for name in ("run_results.json", "manifest.json"):
        (target / name).write_text('{"metadata": {"dbt_schema_version": "https://')

    run = project.run_pipeline("--commands", "run")

    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_full_disk_is_named(project, target):
    (target / "manifest.json").unlink(missing_ok=True)
    (target / "manifest.json").symlink_to("/dev/full")
    try:
        run = project.run_pipeline("--commands", "run")
    finally:
        (target / "manifest.json").unlink()

    assert run.returncode == 1
    assert "No space left on device" in run.stderr.splitlines()[-2]
    assert "place libre" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_read_only_target_is_named(project, target):
    target.chmod(0o555)
    # Root ignores the mode of a folder unless it drops CAP_DAC_OVERRIDE.
    give_up = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    try:
        run = subprocess.run(
            [*give_up, sys.executable, project.root / "prefect" / "pipeline.py"],
            env=project.environment,
            capture_output=True,
            text=True,
        )
    finally:
        target.chmod(0o755)

    assert run.returncode == 3
    assert run.stderr.splitlines()[-1].startswith(f"Dossier {target} : écriture impossible")
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_prefect_database_that_is_locked_is_named(project, tmp_path):
    database = sqlite3.connect(tmp_path / "prefect.db", isolation_level=None)
    database.execute("create table taken (id)")
    database.execute("begin exclusive")
    try:
        run = project.run_pipeline(PREFECT_API_URL="", PREFECT_HOME=str(tmp_path))
    finally:
        database.close()

    assert run.returncode == 3, run.stderr
    assert "Le serveur Prefect temporaire n'a pas démarré" in run.stderr
    assert "database is locked" in run.stderr
    assert "Sa base est peut-être occupée" in run.stderr.splitlines()[-1]

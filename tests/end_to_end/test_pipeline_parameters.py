"""The options of the pipeline: what reaches dbt, and that nothing reaches a shell."""

import re
from pathlib import Path

import pytest

from bi_pipeline.dbt_runs.packages import packages_are_missing
from project import copy_project

SNAPSHOT = """
snapshots:
  - name: history
    relation: ref('one')
    config: {strategy: check, check_cols: all, unique_key: id, hard_deletes: invalidate}
"""
# No test, and nothing of its seed is selected. Its first model needs the package.
PROJECT = {
    "models/one.sql": "select {{ given.three() }} as id",
    "models/two.sql": "select 2 as id",
    "models/three.sql": "select 3 as id",
    "seeds/colours.csv": "id\n1\n",
    "snapshots/history.yml": SNAPSHOT,
    "packages.yml": "packages:\n  - local: ../package\n",
    "../package/dbt_project.yml": "name: given\nversion: '1.0'\nconfig-version: 2\n",
    "../package/macros/three.sql": "{% macro three() %}3{% endmacro %}",
}
BANNER = """\
======================================================================
CONFIGURATION DBT PROFILE
======================================================================
Block GCP        : sa-key
Target           : prod
Dataset utilisé  : {dataset}
Nom du profil    : projet_m2_bi
======================================================================
Démarrage de la pipeline...
Projet GCP       : projet-local
"""
# Flags that a team's project may have: if the pipeline obeyed them, it would not know what dbt did.
FLAGS = "flags: {log_level: error, quiet: true, print: false, write_json: false}\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    """A project whose flags hide what dbt does, and whose package is not installed."""
    project = copy_project(tmp_path_factory.mktemp("parameters"), local_environment, PROJECT)
    with (project.root / "dbt" / "dbt_project.yml").open("a") as file:
        file.write(FLAGS)
    return project


@pytest.fixture(scope="module")
def selected(project):
    """A run of three commands on two selections, in prod."""
    run = project.run_pipeline(
        *("--commands", "seed", "build", "test", "--select", "two", "--select", "one+"),
        *("--target", "prod", "--full-refresh"),
        *("--empty", "--exclude", "resource_type:snapshot"),
    )
    assert run.returncode == 0, run.stderr
    return run


def test_two_selections_build_both_and_no_other_model(project, selected):
    dataset = project.environment["DBT_BIGQUERY_DATASET_PROD"]
    built = selected.stdout.split("Construit (cible prod) :\n")[1].splitlines()

    assert sorted(built) == [f"  {dataset}.one  vue", f"  {dataset}.two  vue"]


def test_banner_comes_first_and_is_exact(project, selected):
    dataset = project.environment["DBT_BIGQUERY_DATASET_PROD"]

    assert selected.stdout.startswith(BANNER.format(dataset=dataset))


def test_packages_that_are_declared_are_installed_first_then_commands_run_in_order(
    project, selected
):
    commands = re.findall(r"Task run 'dbt (\w+)-\w+' - Finished in state", selected.stderr)

    assert commands == ["deps", "seed", "build", "test"]
    assert not packages_are_missing(project.root / "dbt")


def test_command_that_has_none_of_the_selection_is_said_and_does_not_stop_the_others(selected):
    assert (
        "dbt build : réussi. dbt seed : aucun seed. dbt test : aucun test."
        in (selected.stderr.splitlines()[-1])
    )


@pytest.mark.slow
def test_selection_without_a_node_is_a_failure_whatever_prefect_would_retry_or_log(project):
    """The selection is shell text, which runs nothing."""
    command = "touch $HOME/touched"

    run = project.run_pipeline(
        *("--select", f"$({command}) `{command}` a; {command}; '; {command}; '"),
        PREFECT_FLOWS_DEFAULT_RETRIES="1",
        PREFECT_LOGGING_LEVEL="ERROR",
    )

    assert run.returncode == 1
    assert not (Path(project.environment["HOME"]) / "touched").exists()
    assert "aucun nœud" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_build_without_data_is_refused_if_it_would_take_up_a_snapshot(project, selected):
    """The remedy that is said is the one that `selected` shows."""
    run = project.run_pipeline("--commands", "build", "--empty")

    assert run.returncode == 2
    assert "--exclude resource_type:snapshot (1 ici)" in run.stderr.splitlines()[-1]

"""The options of the pipeline: what reaches dbt, and that nothing reaches a shell."""

import pytest

from bi_pipeline.dbt_runs.packages import packages_are_missing
from project import ONE_MODEL, built, copy_project

MODELS = ONE_MODEL | {"models/two.sql": "select 2 as id", "models/three.sql": "select 3 as id"}
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
    """A project of three models and no test, whose flags hide what dbt does."""
    project = copy_project(tmp_path_factory.mktemp("parameters"), local_environment, MODELS)
    with (project.root / "dbt" / "dbt_project.yml").open("a") as file:
        file.write(FLAGS)
    return project


@pytest.fixture(scope="module")
def selected(project):
    """A run of two selections, in prod."""
    return project.run_pipeline("--select", "two", "--select", "one", "--target", "prod")


def test_two_selections_build_both_and_no_other_model(project, selected):
    dataset = project.environment["DBT_BIGQUERY_DATASET_PROD"]
    built = selected.stdout.split("Construit (cible prod) :\n")[1].splitlines()

    assert sorted(built) == [f"  {dataset}.one  vue", f"  {dataset}.two  vue"]


def test_banner_comes_first_and_is_exact(project, selected):
    dataset = project.environment["DBT_BIGQUERY_DATASET_PROD"]

    assert selected.stdout.startswith(BANNER.format(dataset=dataset))


def test_tasks_are_named_after_the_dbt_commands(selected):
    assert "Task run 'dbt run-" in selected.stderr
    assert "Task run 'dbt test-" in selected.stderr


def test_lack_of_tests_of_what_is_selected_is_said_and_is_no_failure(selected):
    assert selected.returncode == 0, selected.stderr
    assert "dbt run : réussi. dbt test : aucun test." in selected.stderr


def test_shell_text_in_an_option_selects_nothing_and_runs_nothing(project, tmp_path):
    touched = tmp_path / "touched"

    command = f"touch {touched}"

    run = project.run_pipeline(
        "--select", f"a; {command}; $({command}) `{command}` '; {command}; '"
    )

    assert run.returncode == 1
    assert not touched.exists()
    assert "Traceback" not in run.stderr


def test_selection_without_a_node_is_a_failure_whatever_prefect_would_retry_or_log(project):
    run = project.run_pipeline(
        *("--exclude", "*"), PREFECT_FLOWS_DEFAULT_RETRIES="1", PREFECT_LOGGING_LEVEL="ERROR"
    )

    assert run.returncode == 1
    assert "aucun nœud" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_packages_that_are_declared_are_installed_first_and_once(make_project):
    project = make_project({"models/one.sql": "select {{ given.three() }} as id"})
    package = project.root / "package"
    (package / "macros").mkdir(parents=True)
    (package / "dbt_project.yml").write_text("name: given\nversion: '1.0'\nconfig-version: 2\n")
    (package / "macros" / "three.sql").write_text("{% macro three() %}3{% endmacro %}")
    (project.root / "dbt" / "packages.yml").write_text("packages:\n  - local: ../package\n")

    missing_before = packages_are_missing(project.root / "dbt")
    run = project.run_pipeline("--commands", "run")

    assert run.returncode == 0, run.stderr
    assert "Task run 'dbt deps-" in run.stderr
    assert (missing_before, packages_are_missing(project.root / "dbt")) == (True, False)


def test_commands_are_run_in_order(make_project):
    project = make_project(ONE_MODEL)
    (project.root / "dbt" / "seeds").mkdir()
    (project.root / "dbt" / "seeds" / "colours.csv").write_text("id\n1\n")

    run = project.run_pipeline("--commands", "seed", "build", "--full-refresh")

    assert run.returncode == 0, run.stderr
    assert run.stderr.index("Task run 'dbt seed-") < run.stderr.index("Task run 'dbt build-")
    assert "Task run 'dbt run-" not in run.stderr


def test_command_that_has_none_of_the_selection_does_not_stop_the_others(make_project):
    project = make_project(ONE_MODEL | {"seeds/colours.csv": "id\n1\n"})

    run = project.run_pipeline("--commands", "seed", "run", "test", "--select", "one")

    assert run.returncode == 0, run.stderr
    assert built(run) == ["one"]
    assert "dbt run : réussi. dbt seed : aucun seed. dbt test : aucun test." in run.stderr


SNAPSHOT = """
snapshots:
  - name: history
    relation: ref('one')
    config: {strategy: check, check_cols: all, unique_key: id, hard_deletes: invalidate}
"""


def test_build_without_data_is_refused_if_it_would_take_up_a_snapshot(make_project):
    project = make_project(ONE_MODEL | {"snapshots/history.yml": SNAPSHOT})

    refused = project.run_pipeline("--commands", "build", "--empty")
    without = project.run_pipeline(
        *("--commands", "build", "--empty", "--exclude", "resource_type:snapshot")
    )

    assert refused.returncode == 2
    assert "--exclude resource_type:snapshot (1 ici)" in refused.stderr.splitlines()[-1]
    assert without.returncode == 0, without.stderr
    assert built(without) == ["one"]

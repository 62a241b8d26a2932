"""The options of the pipeline: what reaches dbt, and that nothing reaches a shell."""

import ast
import inspect
from pathlib import Path
from typing import get_args

import pytest

import dbt_command
from pipeline import Selection, dbt_full_pipeline, parse_arguments
from pipeline_settings import Target
from project import ONE_MODEL, copy_project

MODELS = ONE_MODEL | {"models/two.sql": "select 2 as id", "models/three.sql": "select 3 as id"}


@pytest.mark.parametrize(
    ("selection", "command", "words"),
    [
        (Selection(), "run", ["run"]),
        (Selection(), "source freshness", ["source", "freshness"]),
        (Selection("a+ b", "c"), "test", ["test", "--select=a+ b", "--exclude=c"]),
        (Selection("--help"), "run", ["run", "--select=--help"]),
        (Selection(full_refresh=True), "run", ["run", "--full-refresh"]),
        (Selection(full_refresh=True), "test", ["test"]),
        (Selection("a", "b", True), "deps", ["deps"]),
    ],
)
def test_options_go_to_the_commands_that_take_them(selection, command, words):
    assert selection.arguments(command) == words


@pytest.mark.parametrize("option", ["--select", "--exclude"])
def test_option_given_several_times_adds_up_as_in_dbt(option):
    parameters = parse_arguments([option, "a", option, "b+"])

    assert parameters == {option.removeprefix("--"): "a b+"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--select", ""], "--select : la valeur est vide"),
        (["--exclude", " "], "--exclude : la valeur est vide"),
        (["--select"], "--select : il manque la valeur"),
        (["--target", "production"], "--target : « production » est refusé"),
        (["--commands"], "--commands : il manque au moins une valeur"),
        (["--selct", "a"], "option inconnue : --selct a"),
    ],
)
def test_wrong_command_line_is_refused_in_french(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(arguments)

    captured = capsys.readouterr().err
    assert stop.value.code == 2
    assert captured.startswith("usage : pipeline.py")
    assert f"pipeline.py : {message}" in captured
    assert "error" not in captured


def test_form_made_from_the_file_alone_has_every_default_and_choice():
    """prefect-cloud reads the source and imports nothing of ours."""
    source = ast.parse(Path(inspect.getfile(dbt_full_pipeline.fn)).read_text())
    flow = next(x for x in source.body if getattr(x, "name", "") == "dbt_full_pipeline")
    here = {target.id for x in source.body if isinstance(x, ast.Assign) for target in x.targets}
    known = here | {"Literal", "Annotated", "Field", "list", "str", "bool"}
    names = {x.id for x in ast.walk(flow.args) if isinstance(x, ast.Name)}

    defaults = [ast.literal_eval(default) for default in flow.args.defaults]

    assert defaults == [None, None, None, False, ["run", "test"]]
    assert names <= known


def test_form_describes_each_parameter_and_offers_the_targets_and_commands():
    properties = dbt_full_pipeline.parameters.properties

    assert list(properties) == ["target", "select", "exclude", "full_refresh", "commands"]
    assert all(text["description"].strip() for text in properties.values())
    targets = {"enum": list(get_args(Target)), "type": "string"}
    assert targets in properties["target"]["anyOf"]
    assert properties["commands"]["items"]["enum"][:2] == ["run", "test"]


@pytest.fixture(scope="module")
def project(tmp_path_factory, local_environment):
    """A project of three models and no test."""
    return copy_project(tmp_path_factory.mktemp("parameters"), local_environment, MODELS)


@pytest.fixture(scope="module")
def selected(project):
    """A run of two selections, in prod."""
    return project.run_pipeline("--select", "two", "--select", "one", "--target", "prod")


def test_two_selections_build_both_and_no_other_model(project, selected):
    dataset = project.environment["DBT_BIGQUERY_DATASET_PROD"]
    built = selected.stdout.split("Construit (cible prod) :\n")[1].splitlines()

    assert sorted(built) == [f"  {dataset}.one  vue", f"  {dataset}.two  vue"]


def test_target_of_the_command_line_is_said(selected):
    assert "Target           : prod" in selected.stdout


def test_lack_of_tests_of_what_is_selected_is_no_failure(selected):
    assert "Task run 'dbt test-" in selected.stderr
    assert selected.returncode == 0, selected.stderr


def test_shell_text_in_an_option_selects_nothing_and_runs_nothing(project, tmp_path):
    touched = tmp_path / "touched"

    command = f"touch {touched}"

    run = project.run_pipeline(
        "--select", f"a; {command}; $({command}) `{command}` '; {command}; '"
    )

    assert run.returncode == 1
    assert not touched.exists()
    assert "Traceback" not in run.stderr


def test_selection_without_a_node_is_a_failure(project):
    run = project.run_pipeline("--exclude", "*")

    assert run.returncode == 1
    assert "aucun nœud" in run.stderr.splitlines()[-1]


def test_packages_that_are_declared_are_installed_first_and_once(make_project, monkeypatch):
    project = make_project({"models/one.sql": "select {{ given.three() }} as id"})
    package = project.root / "package"
    (package / "macros").mkdir(parents=True)
    (package / "dbt_project.yml").write_text("name: given\nversion: '1.0'\nconfig-version: 2\n")
    (package / "macros" / "three.sql").write_text("{% macro three() %}3{% endmacro %}")
    (project.root / "dbt" / "packages.yml").write_text("packages:\n  - local: ../package\n")
    monkeypatch.setattr(dbt_command, "DBT_PROJECT_DIR", project.root / "dbt")

    missing_before = dbt_command.packages_are_missing()
    run = project.run_pipeline("--commands", "run")

    assert run.returncode == 0, run.stderr
    assert "Task run 'dbt deps-" in run.stderr
    assert (missing_before, dbt_command.packages_are_missing()) == (True, False)


def test_commands_are_run_in_order(make_project):
    project = make_project(ONE_MODEL)
    (project.root / "dbt" / "seeds").mkdir()
    (project.root / "dbt" / "seeds" / "colours.csv").write_text("id\n1\n")

    run = project.run_pipeline("--commands", "seed", "build", "--full-refresh")

    assert run.returncode == 0, run.stderr
    assert run.stderr.index("Task run 'dbt seed-") < run.stderr.index("Task run 'dbt build-")
    assert "Task run 'dbt run-" not in run.stderr

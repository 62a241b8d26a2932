"""The command line of the pipeline, and the form that Prefect makes of its parameters."""

import ast
import inspect
from pathlib import Path
from typing import get_args

import pytest

from bi_pipeline.arguments import parse_arguments
from bi_pipeline.settings import Target
from pipeline import Command, dbt_full_pipeline

FORM = dbt_full_pipeline.parameters.properties


@pytest.mark.parametrize("option", ["--select", "--exclude"])
@pytest.mark.parametrize("words", [["a", "b+"], ["a b+"]])
def test_selection_of_several_words_needs_no_quotes(option, words):
    assert parse_arguments(FORM, [option, *words]) == {option.removeprefix("--"): "a b+"}


def test_option_given_several_times_adds_up_as_in_dbt():
    assert parse_arguments(FORM, ["--select", "a", "--select", "b+"]) == {"select": "a b+"}


@pytest.mark.parametrize(
    ("words", "commands"),
    [
        (["run", "test"], ["run", "test"]),
        (["source", "freshness", "build"], ["source freshness", "build"]),
        (["source freshness", "build"], ["source freshness", "build"]),
        (["docs", "generate"], ["docs generate"]),
    ],
)
def test_commands_are_typed_as_for_dbt(words, commands):
    assert parse_arguments(FORM, ["--commands", *words]) == {"commands": commands}


@pytest.mark.parametrize("words", [["run-operation", "grant"], ["run-operation grant"]])
def test_macro_of_run_operation_follows_it_as_for_dbt(words):
    parameters = parse_arguments(FORM, ["--commands", "retry", *words, "test"])

    assert parameters == {"commands": ["retry", "run-operation", "test"], "macro": "grant"}


@pytest.mark.parametrize("text", ["{a: 1, day: 2013-01-01}", '{"a": 1, "day": "2013-01-01"}'])
def test_variables_are_yaml_or_json(text):
    assert parse_arguments(FORM, ["--vars", text]) == {"vars": {"a": 1, "day": "2013-01-01"}}


def test_changes_are_those_since_a_commit_or_since_the_last_run_of_prod():
    assert parse_arguments(FORM, ["--changed-since", "main"]) == {"changed_since": "main"}
    assert parse_arguments(FORM, ["--changed-since"]) == {"changed_since": "DBT_ARTIFACTS_DIR"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--select", ""], "--select : la valeur est vide"),
        (["--exclude", " "], "--exclude : la valeur est vide"),
        (["--select"], "--select : il manque au moins une valeur"),
        (["--target", "production"], "--target : « production » est refusé"),
        (["--commands"], "--commands : il manque au moins une valeur"),
        (["--commands", "clean"], "« clean » est refusé, elle effacerait"),
        (["--commands", "docs", "serve"], "« docs serve » est refusé, `make docs`"),
        (["--commands", "rnu"], "« rnu » est refusé, les valeurs possibles sont run, test"),
        (["--commands", "run-operation", "drop it"], "« it » est refusé"),
        (["--commands", "run-operation a run-operation b"], "run-operation, une fois"),
        (["--commands", "run-operation", "a;b"], "« a;b » n'est pas un nom de macro"),
        (["--vars", "a:1"], "--vars : il faut du YAML ou du JSON"),
        (["--vars", "{"], "--vars : il faut du YAML ou du JSON"),
        (["--vars", "{2024-01-01: x}"], "--vars : il faut du YAML ou du JSON"),
        (["--commands", "docs"], "« docs » est refusé, écrivez docs generate"),
        (["-s", "a"], "-s : ici, --select"),
        (["--state", "x", "--defer"], "--state : ici, --changed-since ; --defer : ici"),
        (["--threads", "two"], "--threads : « two » est refusé"),
        (["--selct", "a"], "option inconnue : --selct a. Celles de dbt que la pipeline prend"),
    ],
)
def test_wrong_command_line_is_refused_in_french(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(FORM, arguments)

    captured = capsys.readouterr().err
    assert stop.value.code == 2
    assert captured.startswith("usage : pipeline.py")
    assert message in captured
    assert "error" not in captured


def test_form_made_from_the_file_alone_has_every_default_and_choice():
    """prefect-cloud reads the source and imports nothing of ours."""
    source = ast.parse(Path(inspect.getfile(dbt_full_pipeline.fn)).read_text())
    flow = next(x for x in source.body if getattr(x, "name", "") == "dbt_full_pipeline")
    here = {target.id for x in source.body if isinstance(x, ast.Assign) for target in x.targets}
    known = here | {"Literal", "Annotated", "Field", "Any", "list", "dict", "str", "bool", "int"}
    names = {x.id for x in ast.walk(flow.args) if isinstance(x, ast.Name)}

    defaults = [ast.literal_eval(default) for default in flow.args.defaults]

    assert defaults == [*[None] * 5, *[False] * 3, *[None] * 4, ["run", "test"], None]
    assert names <= known


def test_form_describes_each_parameter_and_offers_the_targets_and_commands():
    assert all(text["description"].strip() for text in FORM.values())
    assert {"enum": list(get_args(Target)), "type": "string"} in FORM["target"]["anyOf"]
    assert FORM["commands"]["items"] == {"enum": list(get_args(Command)), "type": "string"}


def test_command_line_has_every_parameter_of_the_form_with_its_description(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(FORM, ["--help"])

    # argparse breaks lines at blanks and after hyphens: no description would match as it is.
    text = "".join(capsys.readouterr().out.split())
    for name, schema in [item for item in FORM.items() if item[0] != "macro"]:
        assert f"--{name.replace('_', '-')}" in text
        assert "".join(schema["description"].split()) in text
